"""The coordinator's HTTP shell, `/v1/`: parse, ask the service, answer."""
