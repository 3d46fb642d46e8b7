"""The per-sample mathematics (``sample``) and the loops around it for each kind of hardware (``cpu``)."""
