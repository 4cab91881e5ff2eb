"""The MCP door: a proxy between an agent's client and a server of tools. Before a call the guard, after it a scan."""
