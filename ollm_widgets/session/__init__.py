"""What a person is doing: chosen model, config, plan, loading, conversation."""
