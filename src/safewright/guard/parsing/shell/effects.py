"""What each command does to its targets."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from safewright.guard.parsing.shell.accounts import does_account
from safewright.guard.parsing.shell.awk import does_awk
from safewright.guard.parsing.shell.editing import does_edit, does_page
from safewright.guard.parsing.shell.exhausting import does_printf, does_seq, does_sleep
from safewright.guard.parsing.shell.files import (
    does_builds,
    does_chmod,
    does_compress,
    does_cp,
    does_creates,
    does_crypt,
    does_dd,
    does_ln,
    does_mv,
    does_reads,
    does_rename,
    does_rm,
    does_searches,
    does_sed,
    does_setcap,
    does_shred,
    does_sized,
    does_tar,
    does_tee,
    does_zip,
)
from safewright.guard.parsing.shell.making import does_make
from safewright.guard.parsing.shell.model import UNKNOWN, Effect
from safewright.guard.parsing.shell.options import options
from safewright.guard.parsing.shell.system import (
    does_clock,
    does_cron,
    does_docker,
    does_download,
    does_git,
    does_hostname,
    does_init_script,
    does_kill,
    does_log,
    does_logger,
    does_mount,
    does_net,
    does_package,
    does_pkill,
    does_power,
    does_renice,
    does_service,
    does_split,
    does_stress,
    does_sysctl,
    does_trace,
    module_effects,
)
from safewright.guard.parsing.shell.touching import endless, on, paths
from safewright.guard.parsing.shell.verbs import (
    ACCOUNT_TOOLS,
    BUILDS,
    EDITORS,
    NAMES,
    READS,
    SEARCHES,
    SILENT,
)

if TYPE_CHECKING:
    from safewright.guard.parsing.shell.calls import Call

Reader = Callable[["Call"], list[Effect]]


def effects_of(call: Call) -> list[Effect]:
    """The effects of a command whose wrappers are off; `unknown` where nobody declared it."""
    verb = call.verb
    words = call.fields[1:]
    if call.fields[0].startswith(("/etc/init.d/", "/etc/rc.d/init.d/")):
        return does_init_script(call)
    if verb in _READERS:
        return _READERS[verb](call)
    if len(words) == 1 and words[0] in ("--version", "--help", "-h", "-V", "-v"):
        return []
    if verb in SILENT:
        return endless(call)
    if verb in READS:
        return endless(call) + does_reads(call)
    if verb in NAMES:
        letters, operands = options(words)
        return paths(call, "read", operands or ["."], detail="names", recursive="R" in letters)
    if verb in SEARCHES:
        return does_searches(call)
    if verb in BUILDS:
        return does_builds(call)
    if verb in EDITORS:
        return does_edit(call)
    if verb.startswith("mkfs"):
        return paths(
            call,
            "write",
            [options(words, "tLbm")[1][-1]] if options(words, "tLbm")[1] else [UNKNOWN],
            detail="format",
        )
    if verb in ("kubectl", "oc") and words[:1] and words[0] in _LOOKS:
        return (
            []
            if not any(each.startswith("secret") for each in words)
            else [on(call, "unknown", verb, "system")]
        )
    name = call.fields[0]
    if name == "}":
        return []
    if "/" in name:
        return [*paths(call, "execute", [name], detail="itself")]
    return [on(call, "unknown", verb, "system")]


_LOOKS = frozenset(("get", "describe", "logs", "top", "version", "explain", "api-resources", "cluster-info"))
"""What shows a cluster and changes nothing."""

_READERS: dict[str, Reader] = {
    "rm": does_rm, "unlink": does_rm, "rmdir": does_rm, "srm": does_rm, "shred": does_shred, "wipe": does_shred,
    "trash": does_rm, "cp": does_cp, "install": does_cp, "rsync": does_cp, "scp": does_cp, "mv": does_mv,
    "rename": does_rename, "ln": does_ln, "link": does_ln, "chmod": does_chmod, "chown": does_chmod,
    "chgrp": does_chmod, "chattr": does_chmod, "setfacl": does_chmod, "tee": does_tee, "sponge": does_tee,
    "sed": does_sed, "awk": does_awk, "gawk": does_awk, "mawk": does_awk, "dd": does_dd, "truncate": does_sized,
    "fallocate": does_sized, "mkdir": does_creates, "touch": does_creates, "mkfifo": does_creates,
    "mknod": does_creates, "mktemp": lambda call: [], "split": does_split, "tar": does_tar, "zip": does_zip,
    "unzip": does_zip, "7z": does_zip, "gzip": does_compress, "gunzip": does_compress, "bzip2": does_compress,
    "xz": does_compress, "zstd": does_compress, "bunzip2": does_compress, "unxz": does_compress,
    "openssl": does_crypt, "gpg": does_crypt, "gpg2": does_crypt, "ccrypt": does_crypt, "ccencrypt": does_crypt,
    "age": does_crypt, "cryptsetup": does_crypt, "fdisk": does_crypt, "sfdisk": does_crypt,
    "parted": does_crypt, "wipefs": does_crypt, "blkdiscard": does_crypt, "mkswap": does_crypt,
    "sgdisk": does_crypt, "mke2fs": does_crypt, "curl": does_download, "wget": does_download,
    "aria2c": does_download, "nc": does_net, "ncat": does_net, "netcat": does_net, "socat": does_net,
    "telnet": does_net, "ssh": does_net, "sftp": does_net, "ftp": does_net, "mail": does_net,
    "sendmail": does_net, "kill": does_kill, "skill": does_kill, "pkill": does_pkill, "killall": does_pkill,
    "killall5": does_pkill, "fuser": does_pkill, "xkill": does_pkill, "renice": does_renice,
    "prlimit": does_renice, "gcore": does_trace, "crontab": does_cron, "systemctl": does_service,
    "service": does_service, "rc-service": does_service, "update-rc.d": does_service, "chkconfig": does_service,
    "invoke-rc.d": does_service, "initctl": does_service, "snap_service": does_service, "shutdown": does_power,
    "reboot": does_power, "halt": does_power, "poweroff": does_power, "init": does_power, "telinit": does_power,
    "sysctl": does_sysctl, "modprobe": does_sysctl, "insmod": does_sysctl, "rmmod": does_sysctl,
    "kexec": does_sysctl, "setenforce": does_sysctl, "swapoff": does_sysctl, "swapon": does_sysctl,
    "hwclock": does_sysctl, "ip": does_sysctl, "ifconfig": does_sysctl, "route": does_sysctl, "tc": does_sysctl,
    "iptables": does_sysctl, "ip6tables": does_sysctl, "nft": does_sysctl, "ufw": does_sysctl,
    "firewall-cmd": does_sysctl, "nmcli": does_sysctl, "hostname": does_hostname, "mount": does_mount,
    "umount": does_mount, "losetup": does_mount, "pivot_root": does_mount, "apt": does_package,
    "apt-get": does_package, "aptitude": does_package, "dpkg": does_package, "yum": does_package,
    "dnf": does_package, "rpm": does_package, "apk": does_package, "pacman": does_package,
    "zypper": does_package, "snap": does_package, "pip": does_package, "pip3": does_package,
    "gem": does_package, "brew": does_package, "journalctl": does_log, "logrotate": does_log,
    "auditctl": does_log, "dmesg": does_log, "history": does_log, "stress": does_stress,
    "stress-ng": does_stress, "git": does_git, "docker": does_docker, "podman": does_docker,
    "patch": lambda call: paths(call, "append", options(call.fields[1:], "pidor")[1][:1], detail="edit"),
    "sleep": does_sleep, "setcap": does_setcap, "date": does_clock,
    "timedatectl": does_clock, "hostnamectl": does_clock, "localectl": does_clock,
    "make": does_make, "gmake": does_make, "less": does_page, "more": does_page, "man": does_page,
    "seq": does_seq, "printf": does_printf, "logger": does_logger, "wall": does_logger, "write": does_logger,
    **dict.fromkeys(ACCOUNT_TOOLS, does_account),
}  # fmt: skip

__all__ = ["effects_of", "module_effects"]
