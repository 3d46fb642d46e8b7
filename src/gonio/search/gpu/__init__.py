"""GPUs as backends: batched searches of about a thousand pairs at a time."""
