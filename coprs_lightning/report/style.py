"""The look of the page, in light and dark, on paper and on phones."""

from __future__ import annotations

SERIES = 8
"""Colours of curves; Okabe and Ito's, which colour-blind readers tell apart, lightened for the dark."""

_LIGHT = ("#0072b2", "#d55e00", "#009e73", "#b8578c", "#a87500", "#2a8fc7", "#6b5bb5", "#5f6b76")
_DARK = ("#5eb3e4", "#f28c4b", "#3fc79b", "#e093bd", "#e0b23c", "#8fd0f5", "#a99cf0", "#aab6c2")


def _colours(colours: tuple[str, ...]) -> str:
    return "".join(f"--s{number}:{colour};" for number, colour in enumerate(colours))


CSS = (
    ":root{color-scheme:light dark;--ground:#ffffff;--panel:#f6f7f9;--ink:#1b2129;--soft:#5a6572;--rule:#d9dee5;"
    f"--good:#0a7d55;--bad:#b3261e;--link:#0b5cad;{_colours(_LIGHT)}}}"
    "@media (prefers-color-scheme:dark){:root{--ground:#12161c;--panel:#1b212a;--ink:#e6eaf0;--soft:#a3afbd;"
    f"--rule:#333d4a;--good:#4cc79a;--bad:#ff8f86;--link:#7fb8f5;{_colours(_DARK)}}}}}"
    """
*{box-sizing:border-box}
html{scroll-padding-top:3.2rem}
body{margin:0;background:var(--ground);color:var(--ink);overflow-wrap:anywhere;
 font:16px/1.5 system-ui,"Segoe UI",Roboto,"Noto Sans",sans-serif}
main,header,nav>*{max-width:1120px;margin:0 auto;padding:0 1rem}
h1{font-size:1.6rem;margin:1.2rem 0 .2rem}
h2{font-size:1.25rem;margin:2.6rem 0 .6rem;padding-bottom:.3rem;border-bottom:1px solid var(--rule)}
h3{font-size:1.03rem;margin:1.4rem 0 .4rem}
p{margin:.4rem 0}a{color:var(--link)}
.soft,.note,figcaption{color:var(--soft)}.note,figcaption,.legend{font-size:.9rem}
.note{border-left:3px solid var(--rule);padding-left:.7rem}
nav{position:sticky;top:0;background:var(--ground);border-bottom:1px solid var(--rule);z-index:1;margin-top:.8rem}
nav ul{list-style:none;display:flex;gap:1.1rem;overflow-x:auto;padding:.55rem 1rem;white-space:nowrap}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(8.5rem,1fr));gap:.7rem;margin:1rem 0}
.tile{background:var(--panel);border-radius:.5rem;padding:.6rem .8rem}
.tile b{display:block;font-size:1.35rem;font-variant-numeric:tabular-nums}
.tile span{color:var(--soft);font-size:.85rem}
.grid{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,22rem),1fr));gap:1.2rem}
figure{margin:.4rem 0;min-width:0}
svg{width:100%;height:auto;display:block;font:11px system-ui,sans-serif}
svg text{fill:var(--soft)}svg .name{fill:var(--ink);font-weight:600}
.axis{stroke:var(--rule);stroke-width:1;fill:none}
.legend{display:flex;flex-wrap:wrap;gap:.1rem .9rem;list-style:none;margin:.2rem 0;padding:0}
.legend i{display:inline-block;width:.8em;height:.8em;border-radius:2px;margin-right:.35em}
.scroll{overflow-x:auto;margin:.5rem 0}
table{border-collapse:collapse;font-size:.92rem;min-width:min(60%,28rem)}
@media (max-width:600px){table{min-width:26rem}}
th,td{text-align:left;padding:.32rem .7rem .32rem 0;border-bottom:1px solid var(--rule);vertical-align:top;
 overflow-wrap:break-word}
td details{margin:0}
th{color:var(--soft);font-weight:600;white-space:nowrap}
.num{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}
code,pre{font:.86rem/1.45 ui-monospace,"Cascadia Mono",Menlo,monospace;background:var(--panel);border-radius:.3rem}
code{padding:.1em .3em}pre{padding:.8rem;overflow-x:auto;max-height:32rem;white-space:pre}
details{margin:.5rem 0}summary{cursor:pointer;color:var(--link)}
.panel{border:1px solid var(--rule);border-radius:.5rem;padding:.7rem;margin:.8rem 0}
.panel .scroll img{display:block;width:100%;min-width:44rem;border-radius:.3rem;background:#fff}
.panel dl{display:grid;grid-template-columns:auto 1fr;gap:.1rem .8rem;margin:.5rem 0 0;font-size:.92rem}
.panel dt{color:var(--soft)}.panel dd{margin:0;min-width:0}
.bar{display:inline-block;height:.7em;background:var(--s0);border-radius:2px;min-width:1px;vertical-align:baseline}
.good{color:var(--good)}.bad{color:var(--bad)}
.warn{border:1px solid var(--bad);border-radius:.5rem;padding:.6rem .8rem;margin:.6rem 0}
footer{color:var(--soft);font-size:.85rem;max-width:1120px;margin:3rem auto 2rem;padding:0 1rem}
@media (max-width:600px){body{font-size:15px}h1{font-size:1.3rem}.tile b{font-size:1.15rem}}
@media print{nav{display:none}details>*{display:block}}
"""
    + "".join(
        f".s{n}{{stroke:var(--s{n})}}.f{n}{{fill:var(--s{n})}}.b{n}{{background:var(--s{n})}}" for n in range(SERIES)
    )
)
"""Style sheet; the colours of curves are classes ``s0`` (stroke), ``f0`` (fill) and ``b0`` (background) and so on."""
