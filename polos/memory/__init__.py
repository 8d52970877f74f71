"""What agents remember: conversations of sessions, and how long ones are shortened."""
