"""Tools: functions that models may call, each call a run of its own."""
