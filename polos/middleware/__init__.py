"""What programs put around runs, turns and tool calls: hooks and guardrails."""
