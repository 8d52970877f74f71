"""Programs that show polos at work; each runs as it stands."""
