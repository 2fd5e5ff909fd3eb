"""Everything that makes the rest testable without hardware: Monte Carlo truth, the twin, its specimen and faults."""
