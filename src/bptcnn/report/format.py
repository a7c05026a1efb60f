"""Numbers as people read them; what is not known is a dash."""

from __future__ import annotations

UNKNOWN = "-"


def count(value: float | None) -> str:
    """A whole number with thousands separators.

    Example:
        >>> count(180000), count(2345.6), count(None)
        ('180,000', '2,346', '-')
    """
    return UNKNOWN if value is None else f"{value:,.0f}"


def number(value: float | None, digits: int) -> str:
    """A number with a fixed number of digits after the point.

    Args:
        value: None if not known.
        digits: after the point.

    Returns:
        The text.
    """
    return UNKNOWN if value is None else f"{value:,.{digits}f}"


def percent(fraction: float | None, digits: int = 1) -> str:
    """A fraction in percent, never rounded up to 100 or down to 0.

    Args:
        fraction: 0 to 1; None if not known.
        digits: after the point.

    Returns:
        The text.

    Example:
        >>> percent(0.973), percent(0.9996), percent(0.25, digits=0), percent(None)
        ('97.3 %', '99.9 %', '25 %', '-')
    """
    if fraction is None:
        return UNKNOWN
    step = 10.0**-digits
    value = 100.0 * fraction
    if 0.0 < fraction < 1.0:
        value = min(max(value, step), 100.0 - step)
    return f"{value:.{digits}f} %"


def duration(seconds: float | None) -> str:
    """A span of time, at most two units.

    Example:
        >>> duration(7.25), duration(83), duration(7380), duration(None)
        ('7.2 s', '1 min 23 s', '2 h 3 min', '-')
    """
    if seconds is None:
        return UNKNOWN
    if seconds < 10:
        return f"{seconds:.1f} s"
    minutes, rest_s = divmod(round(seconds), 60)
    if minutes == 0:
        return f"{rest_s} s"
    hours, rest_min = divmod(minutes, 60)
    return f"{hours} h {rest_min} min" if hours else f"{minutes} min {rest_s} s"


def milliseconds(seconds: float | None) -> str:
    """A short span of time.

    Example:
        >>> milliseconds(0.01234), milliseconds(1.5), milliseconds(None)
        ('12.34 ms', '1,500.00 ms', '-')
    """
    return UNKNOWN if seconds is None else f"{1e3 * seconds:,.2f} ms"


def size(num_bytes: float | None) -> str:
    """A number of bytes in decimal units.

    Example:
        >>> size(512), size(1_250_000), size(3.2e9)
        ('512 B', '1.2 MB', '3.2 GB')
    """
    if num_bytes is None:
        return UNKNOWN
    for unit in ("B", "kB", "MB", "GB"):
        if num_bytes < 1000:
            return f"{num_bytes:.0f} B" if unit == "B" else f"{num_bytes:.1f} {unit}"
        num_bytes /= 1000
    return f"{num_bytes:.1f} TB"
