"""Public modules that programs import by name: events and schedules."""
