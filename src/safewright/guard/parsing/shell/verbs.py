"""Which commands do what: words, by kind."""

from __future__ import annotations


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


SILENT = _words(
    """
    : [ [[ apropos apt-cache arch basename bc bg bind break cal cd clear compgen complete continue date
    dc df dig dirname dirs disown dmesg dmidecode dpkg-query echo exec exit expr factor false fc fg
    findmnt free getconf getent getopt getopts groups hash help history host hostnamectl htop id info
    iostat jobs last lastlog ldd let locale localectl logger loginctl logname loop lsblk lscpu lshw
    lsmod lsof lspci lsusb man mesg mpstat netstat nm nproc nslookup numfmt ssh-add blkid getcap pgrep pidof ping popd
    printenv printf ps pstree pwd read return sar seq shift shopt size sleep ss stty suspend test
    timedatectl times top tput tr tracepath traceroute true tsort tty type ulimit umask uname unset
    uptime users uuidgen vmstat w wait wall whereis which who whoami write yes
    """
)
"""Commands that change nothing and read nothing of weight."""
READS = _words(
    """
    b2sum base32 base64 bat batcat bzcat cat cksum cmp column comm csvlook cut diff diff3 exiftool
    expand ffprobe file fmt fold head hexdump iconv identify join jq less lz4cat md5sum more nano_view
    nl objdump od paste pr readelf rev sdiff sha1sum sha224sum sha256sum sha384sum sha512sum shuf sort
    strings sum tac tail tsort unexpand uniq wc xmllint xxd xzcat yq zcat zless
    """
)
"""Commands that read the files they are given."""
NAMES = _words(
    """
    dir du exa eza getfacl locate ls lsattr mountpoint namei readlink realpath stat tree vdir
    """
)
"""Commands that show names and attributes only."""
SEARCHES = _words(
    """
    ack ag egrep fgrep grep rg zgrep
    """
)
"""Commands that take a pattern, then files to read."""
BUILDS = _words(
    """
    ./configure alembic ansible ant ar as autoconf automake bazel black bun bundle c++ cabal cargo cc
    clang clang++ cmake composer conda convert coverage ctest deno django-admin dot dotnet dune elixir
    eslint ffmpeg flake8 flask g++ gcc gdb gh ghc git-lfs go gradle gunicorn hadolint hatch helm isort
    java javac jest jupyter kotlinc latexmk ld magick make mamba meson mix mkdocs mocha mvn mypy mysql
    nasm next ninja nox npm npx ocaml pandoc pdflatex phpunit pipenv pnpm poetry pre-commit prettier
    psql pylint pyright pytest rails rake ranlib redis-cli rollup ruff rustc scalac shellcheck shfmt
    sphinx-build sqlite3 stack strip swift terraform tox ts-node tsc tsx uv uvicorn valgrind vite vitest
    webpack yarn
    """
)
"""Tools of everyday development."""
EDITORS = _words(
    """
    ed emacs ex gvim micro nano nvim pico red rvim vi view vim vimdiff
    """
)
"""Editors."""
ACCOUNT_TOOLS = _words(
    """
    addgroup adduser chage chfn chgpasswd chpasswd chsh delgroup deluser faillock gpasswd groupadd
    groupdel groupmod grpconv newusers pam_tally2 passwd pwconv pwunconv useradd userdel usermod vigr
    vipw visudo
    """
)
"""Commands that change accounts and groups."""
