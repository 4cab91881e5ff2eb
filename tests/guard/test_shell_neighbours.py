"""Harmful commands that were once let through, each beside one that looks like it and does no harm."""

from __future__ import annotations

import pytest

from safewright.guard import Action, Guard, Principal
from safewright.guard.parsing.shell import parse_shell

ROOT, USER = Principal("root", "root"), Principal("user", "user")


@pytest.fixture(scope="module")
def guard():
    with Guard() as opened:
        yield opened


def decision(guard, command, principal=USER):
    return guard.check(Action("bash", {"cmd": command}, principal=principal)).decision


def apart(guard, harmful, expected, harmless, principal=USER):
    assert decision(guard, harmful, principal) == expected
    assert decision(guard, harmless, principal) == "allow"


@pytest.mark.parametrize(
    ("harmful", "expected", "harmless"),
    [
        ('f() { shift; rm -rf "$1"; }; f a /etc', "deny", 'f() { shift; rm -rf "$1"; }; f /etc a'),
        ('f() { shift 2; rm -rf "$@"; }; f a b /etc', "deny", 'f() { shift 2; ls "$@"; }; f a b c'),
        ("set -- a /etc; shift; rm -rf $1", "deny", "set -- /etc a; shift; rm -rf $1"),
        ("set a /etc; rm -rf $2", "deny", "set -e -o pipefail; rm -rf a"),
        ("bash -c 'shift; rm -rf $1' x a /etc", "deny", "bash -c 'shift; rm -rf $1' x /etc a"),
        (
            'f() { while [ $# -gt 0 ]; do rm -rf "$1"; shift; done; }; f a b /etc',
            "deny",
            'f() { while [ $# -gt 0 ]; do rm -rf "$1"; shift; done; }; f a b c',
        ),
        (
            'f() { if [ "$1" = -v ]; then shift; fi; rm -rf "$1"; }; f -v /etc',
            "deny",
            'f() { if [ "$1" = -v ]; then shift; fi; rm -rf -- "$1"; }; f -v build',
        ),
        (
            'set -- 1 2 /etc; for x in 1 2; do shift; done; rm -rf "$1"',
            "deny",
            'set -- /etc 2 a; for x in 1 2; do shift; done; rm -rf "$1"',
        ),
        (
            'f() { for a; do rm -rf "$a"; done; }; f b /etc',
            "deny",
            'f() { for a; do rm -rf "$a"; done; }; f b c',
        ),
        ('f() { shift $N; rm -rf "$1"; }; f a /etc', "deny", 'f() { shift $N; rm -rf "$1"; }; f a b'),
        ("declare -n r=x; x=/etc; rm -rf $r", "deny", "declare -n r=x; x=build; rm -rf $r"),
        ("declare -n r=x; r=/etc; rm -rf $x", "deny", "declare -n r=x; r=build; rm -rf $x"),
        (
            'f() { local -n a=$1; rm -rf "${a[@]}"; }; l=(x /etc); f l',
            "deny",
            'f() { local -n a=$1; rm -rf "${a[@]}"; }; l=(x y); f l',
        ),
        ("declare -n r=$WHAT; r=/etc", "escalate", "declare -r r=x; echo $r"),
        ("echo ${x:-`rm -rf /etc`}", "deny", "echo ${x:-`date`}"),
        ('echo "${x:=`rm -rf /etc`}"', "deny", 'echo "${x:=`uname -s`}"'),
        ("rm -rf 2>/dev/null /etc", "deny", "rm -rf 2>/dev/null build"),
        ("rm -rf 2>&- /etc", "deny", "rm -rf 2>&- build"),
        ("cd / && rm >out -rf etc", "deny", "cd /tmp && rm >out -rf etc"),
        ("rm -rf <<E /etc\nx\nE", "deny", "rm -rf <<E build\nx\nE"),
        ("flock 9 9>f rm -rf /etc", "deny", "flock 9 9>f rm -rf build"),
        ("cat <<E\n`rm -rf /etc`\nE", "deny", "cat <<E\n`date` \\`x\\`\nE"),
        ("cat <<'E'\n$(date)\nE\ncat <<E\na `rm -rf /etc` b\nE", "deny", "cat <<'E'\n`rm -rf /etc`\nE"),
        ('echo "`echo \\`rm -rf /etc\\``"', "deny", 'echo "`basename \\`pwd\\``"'),
        ("case $(rm -rf /etc) in a) :;; esac", "deny", "case $(uname -s) in Linux) date;; esac"),
        ("case a in `rm -rf /etc`) :;; esac", "deny", "case a in `date`) :;; esac"),
        ("[[ -n ${x:-`rm -rf /etc`} ]]", "deny", "[[ -n ${x:-`date`} ]]"),
        ("a[`rm -rf /etc`]=1", "deny", "a[$(date +%s)]=1"),
        ("declare -n r; r=x; x=/etc; rm -rf $r", "escalate", "declare -r r; rm -rf build"),
        ("printf -v x %s /etc; rm -rf $x", "deny", "printf -v x %s build; rm -rf $x"),
    ],
)
def test_words_and_where_they_come_from(guard, harmful, expected, harmless):
    apart(guard, harmful, expected, harmless)


@pytest.mark.parametrize(
    ("harmful", "expected", "harmless"),
    [
        ("PROMPT_COMMAND='rm -rf /etc'", "deny", "PROMPT_COMMAND='history -a'"),
        ("PROMPT_COMMAND=(date 'rm -rf /etc')", "deny", "PROMPT_COMMAND=(date 'history -a')"),
        ("export PROMPT_COMMAND=$WHAT", "escalate", "export PROMPT_COMMAND="),
        ("PS1='$(rm -rf /etc)'", "deny", "PS1='$(git branch) $ '"),
        ("PAGER='rm -rf /etc;' git log", "deny", "PAGER='less -F' git log"),
        (
            "GIT_SSH_COMMAND='sh -c \"rm -rf /etc\"' git fetch",
            "deny",
            "GIT_SSH_COMMAND='ssh -i key' git fetch",
        ),
        ("export PATH=/tmp:$PATH", "escalate", 'export PATH="$HOME/.local/bin:$PATH"'),
        ("PATH=.:$PATH ls", "escalate", "PATH=$PWD/node_modules/.bin:$PATH npm test"),
        ('export "PATH=$(cat where):$PATH"', "escalate", 'export "PATH=$JAVA_HOME/bin:$PATH"'),
        ("echo 'rm -rf /etc' > ~/bin/ls; PATH=~/bin:$PATH ls", "escalate", "PATH=~/bin:$PATH ls"),
        ("LD_LIBRARY_PATH=/tmp ls", "escalate", "LD_LIBRARY_PATH=/usr/local/cuda/lib64 ls"),
        ("LD_PRELOAD=/tmp/x.so; ls", "escalate", "LD_PRELOAD= ls"),
        ("export LD_PRELOAD=./x.so", "escalate", "export LANG=C"),
        ("env LD_AUDIT=./x.so ls", "escalate", "env LC_ALL=C ls"),
        (
            "echo 'rm -rf /etc' > f; BASH_ENV=f bash -c ls",
            "deny",
            "echo 'umask 22' > f; BASH_ENV=f bash -c ls",
        ),
        ("ENV=/tmp/x sh -c ls", "escalate", "ENV=production npm start"),
        ("PYTHONSTARTUP=x.py python3", "escalate", "PYTHONPATH=src python3 -c 'print(1)'"),
        (
            "NODE_OPTIONS='--require ./x.js' node a.js",
            "escalate",
            "NODE_OPTIONS=--max-old-space-size=4096 node a.js",
        ),
        ("PERL5OPT=-Mx perl a.pl", "escalate", "PERL5OPT=-w perl a.pl"),
        ("MAKEFLAGS='--eval=x' make", "escalate", "MAKEFLAGS=-j4 make"),
        ("printf -v PROMPT_COMMAND 'rm -rf /etc'", "deny", "printf -v prompt 'rm -rf /etc'"),
        ("read PROMPT_COMMAND <<< 'rm -rf /etc'", "deny", "read line <<< 'rm -rf /etc'"),
        ("PROMPT_COMMAND[1]='rm -rf /etc'", "deny", "PROMPT_COMMAND[1]='history -a'"),
        ("declare -n p=PROMPT_COMMAND; p='rm -rf /etc'", "deny", "declare -n p=x; p='rm -rf /etc'"),
        ("LESSOPEN='| rm -rf /etc' less f", "deny", "LESSOPEN='| /usr/bin/lesspipe %s' less f"),
        ("GIT_CONFIG_GLOBAL=/tmp/x git log", "escalate", "GIT_CONFIG_GLOBAL=/dev/null git log"),
        ("GIT_CONFIG_KEY_0=core.pager git log", "escalate", "GIT_CONFIG_KEY_0=user.name git log"),
        ("MAKEFILES=/tmp/x make", "escalate", "MAKEFILES= make"),
    ],
)
def test_variables_that_run_something(guard, harmful, expected, harmless):
    apart(guard, harmful, expected, harmless)


@pytest.mark.parametrize(
    ("harmful", "expected", "harmless"),
    [
        ("vim -c ':!rm -rf /etc' f", "deny", "vim -c ':set number' f"),
        ("vi '+1,$!rm -rf /etc' f", "deny", "vi +10 f"),
        ("vim -es -c '%s/a/b/|!rm -rf /etc' f", "deny", "vim -es -c '%s/a!/b/|wq' f"),
        ("vim -c 'g/x/silent !rm -rf /etc' f", "deny", "vim -es -c 'g/x/d' -c wq f"),
        ("vim -c \"call system('rm -rf /etc')\" f", "deny", "vim -c 'colorscheme desert' f"),
        ("nvim -c 'lua x()' f", "escalate", "nvim f"),
        ("vim -c 'w !sh' f", "escalate", "vim -c 'w copy.txt' -c q f"),
        ("ex -s -c 'w! /etc/passwd' f", "deny", "ex -s -c 'w! out.txt' f"),
        ("printf '!rm -rf /etc\\n' | ed f", "deny", "printf 'a\\n!rm -rf /etc\\n.\\nw\\nq\\n' | ed -s f"),
        ("cat what | ed f", "escalate", "printf '1d\\nw\\nq\\n' | ed f"),
        (
            "printf '!rm -rf /etc\\n' > c.vim; vim -S c.vim",
            "deny",
            "printf 'set nu\\n' > c.vim; vim -S c.vim",
        ),
        ("emacs --batch --eval '(shell-command \"rm -rf /etc\")'", "deny", "emacs -nw f"),
        ("less '+!rm -rf /etc' f", "deny", "less +G f"),
        ("man -P 'rm -rf /etc' ls", "deny", "man -P cat ls"),
        (
            "printf 'a:\\n\\trm -rf /etc\\n' | make -f -",
            "deny",
            "printf 'a:\\n\\trm -rf build\\n' | make -f -",
        ),
        (
            "make -f - <<'E'\nD = /etc\na:\n\t-@rm -rf $(D)\nE",
            "deny",
            "make -f - <<'E'\nD = b\na:\n\t-@rm -rf $(D)\nE",
        ),
        ("printf 'a: ; rm -rf /etc\\n' > s/Makefile; make -C s", "deny", "make -C s -sf Makefile"),
        ("make -f - D=/etc <<'E'\na:\n\trm -rf ${D}\nE", "deny", "make -f - D=b <<'E'\na:\n\trm -rf ${D}\nE"),
        (
            "printf 'X := $(shell rm -rf /etc)\\n' > Makefile; make",
            "deny",
            "printf 'a: b\\n\\tcc b\\n' > Makefile; make",
        ),
        ("cat what | make -f -", "escalate", "make -f build.mk test"),
        ("make --eval='$(shell rm -rf /etc)'", "deny", "make VERSION=1 test"),
        ("make SHELL=./x", "escalate", "make SHELL=/bin/bash test"),
        ("make 'CC=$(shell rm -rf /etc)'", "deny", "make CC=clang"),
        ("perl -i -pe 's/a/b/' /etc/passwd", "deny", "perl -i -pe 's/a/b/' notes.txt"),
        ("perl -pi.bak -e 's/a/b/' ~/.bashrc", "escalate", "perl -pi.bak -e 's/a/b/' notes.txt"),
        ("perl -ne 'print' /etc/shadow", "deny", "perl -ne 'print if /x/' notes.txt"),
        ("perl -e 'unlink @ARGV' /etc/passwd", "escalate", "perl -e 'print 1' a"),
        ("ruby -i -pe '$_.upcase!' /etc/passwd", "deny", "ruby -ne 'puts $_' notes.txt"),
        ("flock f bash -c 'rm -rf /etc'", "deny", "flock f bash -c 'make test'"),
        ("git config alias.x '!rm -rf /etc'", "deny", "git config alias.st status"),
        ("git config core.hooksPath /tmp/h", "escalate", "git config --get core.hooksPath"),
        ("git config core.pager 'rm -rf /etc; less'", "deny", "git config core.pager 'less -F'"),
        ("git config --global core.fsmonitor /tmp/x", "escalate", "git config core.fsmonitor true"),
        ("echo x > .git/hooks/pre-commit", "escalate", "cat .git/hooks/pre-commit"),
        ("cp x .git/hooks/", "escalate", "cp x .github/hooks/"),
        ("cd .git/hooks && cp ~/x post-checkout", "escalate", "cd .git/hooks && ls"),
        ("tee -a .git/config < x", "escalate", "git config user.name ann"),
        ("git config set --global alias.x '!rm -rf /etc'", "deny", "git config set --global user.name ann"),
        (
            "git config core.sshCommand 'rm -rf /etc; ssh'",
            "deny",
            "git config core.sshCommand 'ssh -i ~/.ssh/k'",
        ),
        (
            "git submodule foreach --quiet 'rm -rf /etc'",
            "deny",
            "git submodule foreach --quiet 'git status -s'",
        ),
        ("vim -c 'normal :!rm -rf /etc' f", "escalate", "vim -c 'normal! ggVG=' -c wq f"),
        ("make install", "deny", "make -n install"),
        ("git -c core.fsmonitor='rm -rf /etc' status", "deny", "git -c core.hooksPath=/dev/null commit -m x"),
        ("git -c alias.x='!rm -rf /etc' x", "deny", "git -c core.pager=cat log"),
        ("git --config-env=core.pager=X log", "escalate", "git --config-env=user.name=X log"),
        ("git bisect run rm -rf /etc", "deny", "git bisect run npm test"),
        ("git submodule foreach --recursive 'rm -rf /etc'", "deny", "git submodule foreach git pull"),
        ("git rebase -x 'rm -rf /etc' HEAD~2", "deny", "git rebase --exec 'make test' HEAD~2"),
        (
            "git filter-branch --tree-filter 'rm -rf /etc'",
            "deny",
            "git filter-branch --tree-filter 'rm -f a'",
        ),
        ("git difftool -x 'rm -rf /etc'", "deny", "git difftool -x vimdiff HEAD"),
        ("git grep -O'rm -rf /etc' x", "deny", "git grep -O x"),
        ("git fetch --upload-pack='rm -rf /etc;' x", "deny", "git clone -u git-upload-pack x"),
        ("git clone -c core.pager='rm -rf /etc' u", "deny", "git clone -c core.autocrlf=false u"),
        ("git clone 'ext::rm -rf /etc'", "deny", "git clone git@host:a/b"),
        ("vim -c 'windo !rm -rf /etc'", "deny", "vim -c 'windo diffthis' a b"),
        ("vim -c 'sil!  keepj   argdo w! /etc/passwd' f", "deny", "vim -es -c 'argdo %s/a/b/ge' -c q f"),
        ("vim -c 'set makeprg=rm|make /etc'", "escalate", "vim -c 'set ft=python' f"),
        ("vim -c '/a/!rm -rf /etc' f", "deny", "vim +/call f"),
        ("ed '!rm -rf /etc'", "deny", "ed notes.txt"),
        ("echo 'a:;rm -rf /etc' | make -f /dev/fd/0", "deny", "echo 'a:;cc a.c' | make -f /dev/fd/0"),
        (
            "printf 'include x.mk\\n' > Makefile; printf 'a:\\n\\trm -rf /etc\\n' > x.mk; make",
            "deny",
            "printf 'include x.mk\\n' > Makefile; make",
        ),
        ("make .SHELLFLAGS='-c x'", "escalate", "make .SHELLFLAGS='-eu -o pipefail -c'"),
        ("perl -e 'qx{rm -rf /etc}'", "deny", "perl -e 'print qx(date)'"),
    ],
)
def test_programs_that_run_or_change_something_else(guard, harmful, expected, harmless):
    apart(guard, harmful, expected, harmless)


@pytest.mark.parametrize(
    ("harmful", "expected", "harmless"),
    [
        ("pkill -STOP systemd", "deny", "pkill -STOP myapp"),
        ("pkill -19 -x init", "deny", "pkill -19 -x myapp"),
        ("killall -STOP systemd", "deny", "killall -s TERM myapp"),
        ("pkill -P 1", "deny", "pkill -P 4711"),
        ("pkill syst", "deny", "pkill node"),
        ("pkill '^sys.*'", "deny", "pkill -f '^node .*dev'"),
        ("pkill -v x", "deny", "pkill -x x"),
        ("pkill -F /run/sshd.pid", "deny", "pkill -F server.pid"),
        ("kill {1..300}", "deny", "kill {4711..4713}"),
        ("kill -STOP {2..300}", "deny", "kill -STOP 4711 4712"),
        ("kill {10..40}", "deny", "kill {10..12}"),
        ("kill $(seq 2 300)", "deny", "kill $(seq 4711 4713)"),
        ("seq 2 300 | xargs kill", "deny", "seq 2 300 | xargs echo"),
        ("cd /proc; kill [0-9]*", "deny", "cd /proc; ls"),
        ("for d in /proc/[0-9]*; do kill ${d##*/}; done", "deny", "for d in /proc/[0-9]*; do echo ${d##*/}; done"),
        ("ls -d /proc/[0-9]* | xargs -n1 basename | xargs kill", "deny", "ls -d /proc/[0-9]* | wc -l"),
        ("x=$(seq 2 300); kill $x", "deny", "x=$(seq 2 4); kill $x"),
        ("pgrep -v x | xargs kill", "deny", "pgrep x | xargs kill"),
        ("kill `cat /proc/1/task/1/children`", "escalate", "cat /proc/self/status"),
        ("kill -- -1", "deny", "kill -- 4711"),
        ("kill -TERM -- -1", "deny", "kill -TERM -- 4711"),
        ("pkill '[s]ystemd'", "deny", "pkill '[n]ode'"),
        ("pkill 's.stem.?d'", "deny", "pkill 'n.de'"),
        ("killall -r 'sys.*'", "deny", "killall -r 'node.*'"),
        ("pkill -t tty1", "escalate", "pkill -t tty1 node"),
        ("fuser -km /", "deny", "fuser -k 3000/tcp"),
        (
            "python3 -c 'import os\nfor i in range(2, 400): os.kill(i, 9)'",
            "deny",
            "python3 -c 'import os; os.kill(4711, 9)'",
        ),
    ],
)  # fmt: skip
def test_processes(guard, harmful, expected, harmless):
    for principal in (USER, ROOT):
        apart(guard, harmful, expected, harmless, principal)


@pytest.mark.parametrize(
    ("harmful", "harmless"),
    [
        ("groupmod -g 0 -o users", "groupmod -g 1500 users"),
        ("groupmod --gid=0 users", "groupmod --gid=1500 users"),
        ("groupadd -o -g 0 x", "groupadd -g 1500 x"),
        ("groupmod -n sudo users", "groupmod -n staff users"),
        ("usermod -u 0 -o bob", "usermod -c Bob bob"),
        ("usermod -g 0 bob", "usermod -g users bob"),
        ("usermod -aG 0 bob", "usermod -aG dev bob"),
        ("useradd -u 00 -o x", "useradd -u 1500 x"),
    ],
)
def test_accounts(guard, harmful, harmless):
    apart(guard, harmful, "deny", harmless, ROOT)
    assert decision(guard, harmful, USER) == "deny"


@pytest.mark.parametrize(
    ("harmful", "expected", "harmless"),
    [
        ("dd if=/dev/urandom bs=1M > f", "deny", "dd if=/dev/urandom bs=32 count=1 | base64"),
        ("dd if=/dev/zero bs=1G count=100 > f", "deny", "dd if=/dev/zero bs=1M count=10 > f"),
        ("dd if=/dev/zero of=f bs=1M count=100K", "deny", "dd if=/dev/zero of=f bs=1M count=100"),
        ("dd if=/dev/zero of=f bs=64Mx32 count=1000", "deny", "dd if=/dev/zero of=f bs=2x512 count=10"),
        ("dd of=f < /dev/zero", "deny", "dd of=f < notes.txt"),
        ("dd if=/dev/zero of=f bs=1M count=$N", "escalate", "N=4; dd if=/dev/zero of=f bs=1M count=$N"),
        ("yes | dd of=f", "deny", "yes | dd of=f bs=1k count=4"),
        ("cat < /dev/zero > f", "deny", "cat < notes.txt > f"),
        ("gzip -c < /dev/zero > f", "deny", "gzip -c < notes.txt > f"),
        ("tr a b < /dev/urandom > f", "deny", "tr -dc a-z < /dev/urandom | head -c 16"),
        ("od < /dev/urandom > f", "deny", "od -An -N4 -tu4 < /dev/urandom"),
        ("head -c -1 /dev/zero > f", "deny", "head -c 1M /dev/zero > f"),
        ("head -c $N /dev/zero > f", "escalate", "head -c 16 /dev/urandom | xxd -p"),
        ("openssl rand -out f 100000000000", "deny", "openssl rand -out f 32"),
        ("openssl rand -base64 20G > f", "deny", "openssl rand -base64 24"),
        ("seq 1000000000000 > f", "deny", "seq 1000 > f"),
        ("seq inf > f", "deny", "seq inf | head -n 3"),
        ("printf '%2000000000s' x", "deny", "printf '%80s' x"),
        ("fallocate -l 10T f", "deny", "fallocate -l 10M f"),
        ("truncate -s 100T f", "escalate", "truncate -s 10G f"),
        ("truncate --size=2E f", "escalate", "truncate --size=0 f"),
        ('python3 -c "bytearray(10**12)"', "deny", 'python3 -c "bytearray(10**6)"'),
        ('python3 -c "n = 10**12; x = bytes(n)"', "deny", 'python3 -c "n = 10**3; x = bytes(n)"'),
        ('python3 -c "list(range(10**12))"', "deny", 'python3 -c "print(sum(range(10**6)))"'),
        ('python3 -c "x = \'a\'; x *= 10**12"', "deny", 'python3 -c "x = 2; x *= 10**12"'),
        ('python3 -c "x = [0]; y = x; z = y * 10**12"', "deny", 'python3 -c "x = int(input()); print(x * 10**12)"'),
        ('python3 -c "x = str(1); x *= 10**12"', "deny", 'python3 -c "import time; t = time.time(); t *= 10**12"'),
        ('python3 -c "print(10**10**10)"', "deny", 'python3 -c "print(2**64)"'),
        ("python3 -c 'import numpy as np; np.zeros(10**12)'", "deny", "python3 -c 'import numpy as np; np.ones(9)'"),
        ("perl -e '$x = \"a\" x 10**12'", "deny", "perl -e 'print \"a\" x 10'"),
        ("node -e 'Buffer.alloc(1e12)'", "deny", "node -e 'Buffer.alloc(10)'"),
        ("flock f bash -c 'while true; do sleep 1; done'", "escalate", "flock f bash -c 'sleep 1; date'"),
        ("flock f bash -c 'while true; do :; done'", "deny", "flock f bash -c 'while true; do date; break; done'"),
        ("(flock 9; while true; do sleep 1; done) 9>f", "deny", "(flock 9; for i in 1 2; do sleep 1; done) 9>f"),
    ],
)  # fmt: skip
def test_disk_memory_and_time(guard, harmful, expected, harmless):
    apart(guard, harmful, expected, harmless)


def test_words_behind_a_redirection_are_arguments():
    script = parse_shell("true && cp 2>/dev/null a </dev/null b >out /etc/x; ls >list -l")
    words = {each.verb: each.arguments for each in script.commands}
    assert words["cp"] == ("a", "b", "/etc/x")
    assert words["ls"] == ("-l",)
    assert not script.unresolved
    assert not script.unparsed


def test_arguments_that_may_have_been_shifted_stay_bounded():
    names = " ".join(f"a{i}" for i in range(60))
    script = parse_shell(
        f'f() {{ while read x; do case $1 in a*) shift $x;; esac; rm "$1"; done; }}; f {names} /etc'
    )
    assert len(script.commands) < 500
    assert any(not each.resolved or each.target == "/etc" for each in script.effects if each.kind == "delete")


@pytest.mark.parametrize(
    "command",
    [
        "vim -c ':" + " " * 16_000 + "x' f",
        "vim -c 'sil" + " " * 16_000 + "x' f",
        "vim -c '" + ": " * 8_000 + "x' f",
        "kill " + "{1.." * 4_000,
        "echo " + "{a}" * 5_000 + "{a,b}" * 9,
        "echo " + "{a,b}" * 8 + "{c}" * 5_000,
        "PATH=a:$PATH;" * 1_200,
        "".join(f"PATH=a{number}:$PATH;" for number in range(1_000)),
    ],
)
def test_long_texts_for_editors_braces_and_paths_are_judged_before_the_deadline(guard, command):
    # Each was read in the square of its length.
    assert guard.check(Action("bash", {"cmd": command}, principal=USER)).failure is None


def test_braces_that_do_not_close_leave_the_others():
    script = parse_shell("echo {a,{b,c} {x} {d}{e,f} {g,{h,i}}")
    assert script.commands[0].arguments == ("{a,b", "{a,c", "{x}", "{d}e", "{d}f", "g", "h", "i")
