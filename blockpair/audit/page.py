"""The audit's report as one HTML file that needs nothing else: no script, no font, no address. It is read on
a screen, light or dark, and printed. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime
from html import escape

from blockpair.audit.device_map import AGES, Cell, Shade, cells, shares
from blockpair.audit.outcome import AuditRecord, AuditReport, Result
from blockpair.audit.words import TITLES, age_of, covered, sentence
from blockpair.checks.finding import Finding
from blockpair.units import counted, format_duration, format_size, utc
from blockpair.verify.messages import VerifyReport

_CELL, _GAP, _COLUMNS = 14, 2, 64
# More are in the JSON.
_FINDINGS_SHOWN = 200

_STYLE = """
:root{color-scheme:light dark;--bg:#fff;--ink:#1b1f24;--dim:#59636e;--line:#d1d9e0;--soft:#f6f8fa;
--ok:#1a7f37;--warn:#9a6700;--bad:#cf222e;--s0:#0b3d68;--s1:#2a6f9e;--s2:#72a9cd;--s3:#bcd7e8;
--never:#fff;--hatch:#8c959f;--found:#cf222e;--mark:#fff}
@media(prefers-color-scheme:dark){:root{--bg:#0d1117;--ink:#e6edf3;--dim:#9198a1;--line:#3d444d;
--soft:#151b23;--ok:#3fb950;--warn:#d29922;--bad:#f85149;--s0:#a5d3f2;--s1:#5fa3d3;--s2:#316f9c;
--s3:#1b3f5c;--never:#0d1117;--hatch:#656c76;--found:#f85149;--mark:#0d1117}}
@media print{:root{color-scheme:light;--bg:#fff;--ink:#000;--dim:#444;--line:#bbb;--soft:#fff;
--ok:#1a7f37;--warn:#9a6700;--bad:#cf222e;--s0:#0b3d68;--s1:#2a6f9e;--s2:#72a9cd;--s3:#bcd7e8;
--never:#fff;--hatch:#8c959f;--found:#cf222e;--mark:#fff}
*{print-color-adjust:exact;-webkit-print-color-adjust:exact}section,tr{break-inside:avoid}}
@page{margin:16mm}
*{box-sizing:border-box}
body{margin:0;background:var(--bg);color:var(--ink);font:15px/1.5 system-ui,"Segoe UI",Roboto,sans-serif}
main{max-width:62rem;margin:0 auto;padding:2rem 1.25rem 3rem}
h1{font-size:1.6rem;margin:0}h2{font-size:1.15rem;margin:2rem 0 .5rem}
p{margin:.35rem 0}.dim{color:var(--dim)}code{font:.86em ui-monospace,monospace}
.verdict{border:1px solid var(--line);border-left:.4rem solid var(--tone);background:var(--soft);
padding:.7rem 1rem;margin:1.1rem 0;border-radius:.25rem}.verdict strong{color:var(--tone);font-size:1.1rem}
.ok{--tone:var(--ok)}.warning,.note{--tone:var(--warn)}.error{--tone:var(--bad)}.note{--tone:var(--dim)}
table{border-collapse:collapse;width:100%;margin:.5rem 0}th,td{text-align:left;padding:.3rem .7rem .3rem 0;
border-bottom:1px solid var(--line);vertical-align:top}th{font-weight:600}caption{text-align:left}
td.n,th.n{text-align:right;padding-right:1.6rem}
.tone{color:var(--tone);font-weight:600;white-space:nowrap}
svg{display:block;width:100%;height:auto;margin:.6rem 0}svg.key{display:inline-block;width:14px;
margin:0 .4rem -2px 0}.legend{list-style:none;margin:.2rem 0 .6rem;padding:0;display:flex;flex-wrap:wrap;
gap:.2rem 1.3rem}
.c0{fill:var(--s0)}.c1{fill:var(--s1)}.c2{fill:var(--s2)}.c3{fill:var(--s3)}
.never{fill:var(--never);stroke:var(--hatch)}.found{fill:var(--found)}
.slash{stroke:var(--hatch)}.cross{stroke:var(--mark);stroke-width:2}
"""


def page(report: AuditReport) -> str:
    """The whole file."""
    title = f"Audit of {report.node}"
    return "\n".join(
        [
            "<!DOCTYPE html>",
            '<html lang="en"><head><meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; '
            "style-src 'unsafe-inline'\">",
            f"<title>{escape(title)}</title><style>{_STYLE}</style></head><body><main>",
            f"<h1>{escape(title)}</h1>",
            f'<p class="dim">{_moment(report.time)} · blockpair {escape(report.checks.version)}</p>',
            *_verdict(report),
            *_audit(report.last),
            *(line for verified in report.resources for line in _resource(verified, _now(report))),
            *_checks(report.checks.findings),
            "</main></body></html>",
            "",
        ]
    )


def _words(text: str) -> str:
    """A text of a finding: what it has in backticks is to be typed."""
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", escape(text, quote=False))


def _now(report: AuditReport) -> float:
    return datetime.fromisoformat(report.time).timestamp()


def _moment(text: str) -> str:
    return escape(datetime.fromisoformat(text).astimezone(UTC).strftime("%d %B %Y, %H:%M UTC"))


def _verdict(report: AuditReport) -> Iterator[str]:
    tone, words, more = sentence(report)
    yield f'<div class="verdict {tone}" role="status"><strong>{escape(words)}</strong>'
    yield f"<p>{escape(more)}</p></div>" if more else "</div>"


def _audit(last: AuditRecord | None) -> Iterator[str]:
    yield "<section><h2>The last audit</h2>"
    if last is None:
        yield "<p>None has ended on this node yet: <code>blockpair audit run</code>.</p></section>"
        return
    yield f'<p class="dim">{_moment(last.began_at)} to {_moment(last.ended_at)}, exit code {last.code}</p>'
    if last.results:
        yield "<table><thead><tr><th scope=col>Resource</th><th scope=col>Outcome</th>"
        yield '<th scope=col class="n">Compared for</th><th scope=col>Why</th></tr></thead><tbody>'
        for result in last.results:
            yield _result(result)
        yield "</tbody></table>"
    else:
        yield "<p>This node has no resources.</p>"
    yield "</section>"


def _result(result: Result) -> str:
    tone, title = TITLES[result.outcome]
    took = format_duration(result.seconds) if result.seconds else ""
    return (
        f'<tr><td><b>{escape(result.name)}</b></td><td class="tone {tone}">{title}</td>'
        f'<td class="n">{took}</td><td>{escape(result.why)}</td></tr>'
    )


def _resource(verified: VerifyReport, now: float) -> Iterator[str]:
    found = cells(verified, now, most=_COLUMNS * 16)
    name = escape(verified.name)
    yield f'<section aria-labelledby="h-{name}"><h2 id="h-{name}">{name}, {format_size(verified.size)}</h2>'
    yield f"<p>{escape(covered(verified, now))}</p>"
    yield from _map(verified, found, now)
    yield '<ul class="legend">'
    for shade, share in shares(verified, now):
        yield f"<li>{_key(shade)}{escape(shade.title)}: {share}</li>"
    yield "</ul>"
    yield from _findings(verified, now)
    yield "</section>"


def _map(verified: VerifyReport, found: list[Cell], now: float) -> Iterator[str]:
    columns = min(_COLUMNS, len(found))
    rows = -(-len(found) // columns)
    # A small device is no giant one: its cells stay as large as those of a large one.
    width, height = _COLUMNS * (_CELL + _GAP), rows * (_CELL + _GAP)
    name = escape(verified.name)
    yield f'<svg viewBox="0 0 {width} {height}" role="img" aria-labelledby="t-{name} d-{name}">'
    yield f'<title id="t-{name}">Map of {name}: when each part was last proved identical</title>'
    yield f'<desc id="d-{name}">{escape(covered(verified, now))}</desc>'
    for index, cell in enumerate(found):
        x, y = index % columns * (_CELL + _GAP), index // columns * (_CELL + _GAP)
        where = f"{format_size(cell.offset)} to {format_size(cell.offset + cell.length)}"
        yield _drawn(cell.shade, x, y, f"{where}: {age_of(cell, now)}")
    yield "</svg>"


def _drawn(shade: Shade, x: int, y: int, title: str = "") -> str:
    """A cell: by colour, and where colour is not to be seen, by its form."""
    told = f"<title>{escape(title)}</title>" if title else ""
    far_x, far_y = x + _CELL, y + _CELL
    if shade.code == "never":
        return (
            f'<g>{told}<rect x="{x + 0.5}" y="{y + 0.5}" width="{_CELL - 1}" height="{_CELL - 1}" '
            f'class="never"/><path d="M{x} {far_y}L{far_x} {y}" class="slash"/></g>'
        )
    box = f'<rect x="{x}" y="{y}" width="{_CELL}" height="{_CELL}" rx="1" class="{shade.code}"/>'
    if shade.code == "found":
        cross = f"M{x + 3} {y + 3}L{far_x - 3} {far_y - 3}M{far_x - 3} {y + 3}L{x + 3} {far_y - 3}"
        return f'<g>{told}{box}<path d="{cross}" class="cross"/></g>'
    return f"<g>{told}{box}</g>"


def _key(shade: Shade) -> str:
    return f'<svg class="key" viewBox="0 0 {_CELL} {_CELL}" aria-hidden="true">{_drawn(shade, 0, 0)}</svg>'


def _findings(verified: VerifyReport, now: float) -> Iterator[str]:
    if not verified.findings:
        if any(verified.proved):
            yield "<p>Nothing was ever found to differ.</p>"
        return
    yield "<table><caption class=dim>What was found to differ</caption><thead><tr>"
    yield '<th scope=col class="n">At byte</th><th scope=col class="n">Length</th><th scope=col>State</th>'
    yield "<th scope=col>Found</th><th scope=col>Here</th><th scope=col>There</th></tr></thead><tbody>"
    for finding in verified.findings[:_FINDINGS_SHOWN]:
        tone = "error" if finding.open else "ok"
        at = utc(datetime.fromtimestamp(finding.found_at, UTC), "seconds")
        yield (
            f'<tr><td class="n">{finding.offset}</td><td class="n">{format_size(finding.length)}</td>'
            f'<td class="tone {tone}">{finding.state}</td><td>{at}</td>'
            f"<td><code>{escape(finding.local[:16])}</code></td>"
            f"<td><code>{escape(finding.peer[:16])}</code></td></tr>"
        )
    yield "</tbody></table>"
    more = len(verified.findings) - _FINDINGS_SHOWN
    if more > 0:
        yield f"<p>And {counted(more, 'more finding')}: <code>blockpair audit report --json</code>.</p>"


def _checks(findings: list[Finding]) -> Iterator[str]:
    yield "<section><h2>Checks</h2>"
    grave = [finding for finding in findings if finding.severity != "ok"]
    if grave:
        yield "<table><thead><tr><th scope=col>Severity</th><th scope=col>Node</th>"
        yield "<th scope=col>Found, and what to do</th></tr></thead><tbody>"
        for finding in grave:
            why = f'<br><span class="dim">{_words(finding.why)}</span>' if finding.why else ""
            remedy = "<br>".join(map(_words, finding.remedy.splitlines()))
            yield (
                f'<tr><td class="tone {finding.severity}">{finding.severity}</td>'
                f"<td>{escape(finding.node)}</td><td>{_words(finding.what)}{why}"
                f"{'<br>Next: ' + remedy if remedy else ''}</td></tr>"
            )
        yield "</tbody></table>"
    fine = [finding for finding in findings if finding.severity == "ok"]
    if fine:
        yield f"<p>In order ({len(fine)}):</p><ul>"
        yield from (f"<li>{_words(finding.what)} ({escape(finding.node)})</li>" for finding in fine)
        yield "</ul>"
    yield "</section>"


# Every shade has its rule in the style.
assert all(f".{age.code}{{" in _STYLE for age in AGES)
