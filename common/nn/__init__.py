"""Everything that imports TensorFlow, below the agent's own files."""
