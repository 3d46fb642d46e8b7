"""What commands do, for Python: files in, files out, values returned and nothing printed; one module a command."""
