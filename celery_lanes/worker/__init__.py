"""The worker's side of a lane: intake, the store thread, dispatch, closing."""
