"""When: training windows, round deadlines, check-in pacing, backoff and the clock.

Pure objects: facts and `now` in, decisions out. Nothing here does I/O but `clock.SystemClock` and
the reading of the ready-made schedules that ship as TOML beside this file.
"""
