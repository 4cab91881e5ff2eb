"""``safewright guard``: stand between an agent and its tools."""

from __future__ import annotations

import typer

from safewright.cli.guard import audit, bench, check, hook, mcp, memory, policy, serve

app = typer.Typer(
    help="Stand between an agent and its tools: check calls, serve, test policies.", no_args_is_help=True
)


@app.callback()
def guard() -> None:
    """Decide, before an agent's call is made, whether it may be made."""


app.command("check")(check.check)
app.add_typer(policy.app, name="policy")
app.command("mcp")(mcp.mcp)
app.add_typer(memory.app, name="memory")
app.add_typer(audit.app, name="audit")
app.command("serve")(serve.serve)
app.add_typer(bench.app, name="bench")
app.command("hook", context_settings={"allow_extra_args": True, "ignore_unknown_options": True})(hook.hook)
