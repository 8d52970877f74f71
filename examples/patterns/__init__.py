"""One small program for each thing that `ctx.step`, a context or a handle can do; each runs as it stands."""
