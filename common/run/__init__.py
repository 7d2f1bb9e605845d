"""The parts of a run: driver, schedules, checkpoint, lock and signals."""
