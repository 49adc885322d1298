"""The signals: a small module each. A probe looks at the machine and says yes, or why not."""
