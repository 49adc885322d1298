"""The tables of a task file that the compiler reads: one module each."""
