"""The process: command line, settings, composition root, scheduler, job runner, HTTP endpoints, metrics, logs."""
