"""The core: functions of state and argument alone, without clock, disk or loop."""
