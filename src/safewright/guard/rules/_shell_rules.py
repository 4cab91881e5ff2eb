"""What the shell family can say."""

from __future__ import annotations

from safewright.guard.rules.base import Rule

RULES = {
    rule.id.partition(".")[2]: rule
    for rule in (
        Rule("shell.readable", "alignment", "What the command does can be told before it runs."),
        Rule("shell.identity", "role", "The command needs no privilege that its user lacks."),
        Rule(
            "shell.system",
            "integrity",
            "Folders and files the system lives by are neither destroyed nor replaced.",
        ),
        Rule(
            "shell.permissions", "confidentiality", "Owners and modes of the system's files stay as they are."
        ),
        Rule("shell.others", "integrity", "What belongs to another user is left alone."),
        Rule("shell.home", "availability", "A home is not emptied as a whole."),
        Rule("shell.startup", "integrity", "Nothing is planted that runs at login or lets somebody in."),
        Rule("shell.credentials", "confidentiality", "Files that hold secrets are not read."),
        Rule("shell.accounts", "integrity", "Accounts, groups and passwords are changed only by who may."),
        Rule("shell.schedule", "integrity", "Scheduled jobs are changed only by who may."),
        Rule(
            "shell.processes", "availability", "The first process and other users' processes are left alone."
        ),
        Rule("shell.services", "availability", "Services, power, network and kernel stay as they are."),
        Rule("shell.logs", "integrity", "Logs are kept."),
        Rule("shell.packages", "integrity", "Packages are changed only by who may."),
        Rule("shell.exhaustion", "availability", "Nothing takes without bound what others need."),
        Rule("shell.downloads", "integrity", "Nothing from the network is run unread."),
        Rule("shell.encryption", "availability", "Data is not made unreadable in bulk."),
        Rule("shell.network", "confidentiality", "Where data goes can be told."),
        Rule("shell.known", "alignment", "What the program does is known."),
    )
}
