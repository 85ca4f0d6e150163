"""The look of the page: one column, quiet colours, light and dark, legible on paper and on a phone."""

from __future__ import annotations

from worldformula.charts import STYLE as CHART_STYLE

_LIGHT = (
    "--paper:#fff;--ink:#1c2024;--muted:#656d76;--rule:#e3e6ea;--wash:#f6f7f9;--accent:#2f5fd0;"
    "--c0:#2f5fd0;--c1:#c2571a;--c2:#1f7a52;--c3:#6b7280;"
    "--keyword:#8a2be2;--string:#1f7a52;--number:#b5521b;--name:#2f5fd0;--builtin:#0f6e84"
)
_DARK = (
    "--paper:#14171b;--ink:#e6e9ee;--muted:#98a1ad;--rule:#2b3038;--wash:#1b1f25;--accent:#86a9ff;"
    "--c0:#86a9ff;--c1:#f0a063;--c2:#6fcf9f;--c3:#98a1ad;"
    "--keyword:#c79bff;--string:#8fd6a8;--number:#f0a063;--name:#86a9ff;--builtin:#6cc7dc"
)

STYLE = f""":root{{color-scheme:light dark;{_LIGHT}}}
@media (prefers-color-scheme:dark){{:root{{{_DARK}}}}}
*{{box-sizing:border-box}}
body{{margin:0;background:var(--paper);color:var(--ink);line-height:1.55;
font-family:Inter,"Segoe UI Variable Text","Segoe UI",system-ui,-apple-system,"Helvetica Neue",sans-serif;
font-size:16px;-webkit-text-size-adjust:100%;text-rendering:optimizeLegibility}}
main{{max-width:1000px;margin:0 auto;padding:56px 24px 72px}}
h1,h2,h3{{line-height:1.2;letter-spacing:-.014em;font-weight:650;overflow-wrap:anywhere;text-wrap:balance}}
h1{{font-size:2.1rem;margin:.15em 0 .3em}}
h2{{font-size:1.3rem;margin:0 0 .35em}}
h3{{font-size:1rem;margin:1.8em 0 .6em}}
section{{margin-top:64px;break-inside:avoid-page}}
p{{margin:.3em 0 1em;max-width:68ch}}
.over{{font-size:.8rem;letter-spacing:.08em;text-transform:uppercase;color:var(--muted);margin:0}}
.lead,.note,figcaption{{color:var(--muted)}}
.lead{{margin:0;font-size:1.06rem;overflow-wrap:anywhere}}
.note{{font-size:.94rem}}
.alarm{{margin:1.2em 0 0;padding:10px 14px;border-left:4px solid var(--c1);background:var(--wash);max-width:none}}
.alarm b{{color:var(--c1);margin-right:.4em}}
figure{{margin:18px 0 0}}
figcaption{{font-size:.88rem;margin-top:10px;max-width:68ch}}
b,strong{{font-weight:600;color:var(--ink)}}
.hero{{display:grid;grid-template-columns:minmax(0,1.35fr) minmax(0,1fr);gap:24px 56px;margin-top:36px;
padding:28px 0;border-block:1px solid var(--rule)}}
.big{{font-size:3.5rem;line-height:1;font-weight:650;letter-spacing:-.03em;font-variant-numeric:tabular-nums}}
.big small{{font-size:1.15rem;font-weight:400;letter-spacing:0;color:var(--muted)}}
.what{{margin:.6em 0 0;color:var(--muted)}}
.scale{{position:relative;height:64px;margin:26px 2px 0;font-size:.82rem;font-variant-numeric:tabular-nums}}
.scale .track,.scale .way{{position:absolute;top:10px;height:6px;border-radius:3px}}
.scale .track{{left:0;right:0;background:var(--rule)}}
.scale .way{{background:var(--accent)}}
.scale i{{position:absolute;top:5px;width:2px;height:16px;margin-left:-1px;background:var(--muted)}}
.scale i.now{{top:3px;width:20px;height:20px;margin-left:-10px;border-radius:50%;background:var(--accent);
border:4px solid var(--paper)}}
.scale span{{position:absolute;top:28px;white-space:nowrap;color:var(--muted);line-height:1.35}}
.scale span.mid{{transform:translateX(-50%);text-align:center}}
.scale span.end{{transform:translateX(-100%);text-align:right}}
dl{{display:grid;grid-template-columns:max-content minmax(0,1fr);gap:5px 20px;margin:0;font-size:.94rem;
align-content:center}}
dt{{color:var(--muted)}}
dd{{margin:0;overflow-wrap:anywhere;font-variant-numeric:tabular-nums}}
img{{max-width:100%;height:auto;image-rendering:pixelated;display:block;border-radius:4px}}
.pair{{display:grid;grid-template-columns:minmax(0,2fr) minmax(0,5fr);gap:0 36px;align-items:start}}
.pair>figure>img{{width:100%;max-width:288px}}
.beside{{display:flex;flex-wrap:wrap;gap:16px 48px}}
.dream{{display:grid;grid-template-columns:max-content minmax(0,max-content);gap:0 12px}}
.dream sub{{font-size:.75em;line-height:0}}
.dream .rows{{display:grid;grid-auto-rows:1fr;align-items:center;font-size:.85rem;line-height:1;color:var(--muted);
text-align:right}}
.lines{{border-collapse:collapse;font-size:.9rem;margin-top:12px}}
.lines td,.lines th{{text-align:left;vertical-align:top;
padding:5px 18px 5px 0;border-bottom:1px solid var(--rule);font-weight:400}}.lines th{{color:var(--muted)}}
.words{{overflow-x:auto}}.words>div{{width:max-content}}.words img{{display:block;width:100%}}
.words .said{{display:grid;grid-auto-columns:1fr;grid-auto-flow:column;gap:0 2px;font-size:.78rem;text-align:center}}
.columns{{grid-column:2;display:grid;grid-auto-columns:1fr;grid-auto-flow:column;font-size:.8rem;color:var(--muted);
text-align:center;margin-top:4px;font-variant-numeric:tabular-nums}}
.key{{display:inline-block;width:.75em;height:.75em;border-radius:2px;vertical-align:-.04em;margin-right:.3em}}
.wide,.formula,pre{{overflow-x:auto}}
.narrow{{display:none}}
.formula{{padding:6px 0}}
math{{font-family:"Latin Modern Math","STIX Two Math","Cambria Math",math;font-size:1.2rem}}
.graph{{overflow-x:auto;padding:8px 0;text-align:center}}
.graph>svg{{max-width:100%;height:auto}}
.legend{{display:flex;flex-wrap:wrap;gap:4px 22px;justify-content:center;font-size:.85rem;color:var(--muted)}}
.legend svg{{vertical-align:-5px;margin-right:6px}}
pre{{background:var(--wash);border-radius:8px;padding:16px 18px;font-size:.82rem;line-height:1.5;margin:12px 0;
max-height:34rem;overflow:auto;tab-size:4}}
code,pre{{font-family:ui-monospace,"SF Mono","Cascadia Code","JetBrains Mono",Menlo,Consolas,monospace}}
pre .keyword{{color:var(--keyword)}}pre .string{{color:var(--string)}}pre .number{{color:var(--number)}}
pre .name{{color:var(--name);font-weight:600}}pre .builtin{{color:var(--builtin)}}
pre .comment{{color:var(--muted);font-style:italic}}
details{{margin-top:10px}}
summary{{cursor:pointer;color:var(--muted);font-size:.92rem}}
.many svg{{width:100%}}
.many{{display:grid;grid-template-columns:repeat(auto-fill,minmax(270px,1fr));gap:26px 28px;margin-top:16px}}
table{{border-collapse:collapse;width:100%;font-size:.88rem}}
td{{padding:4px 0;border-top:1px solid var(--rule);vertical-align:top;overflow-wrap:anywhere}}
td:first-child{{color:var(--muted);padding-right:20px;white-space:nowrap}}
tr{{break-inside:avoid}}
.settings{{columns:2;column-gap:48px}}
footer{{margin-top:64px;padding-top:18px;border-top:1px solid var(--rule);color:var(--muted);font-size:.85rem}}
@media (max-width:760px){{main{{padding:32px 18px 48px}}h1{{font-size:1.6rem}}section{{margin-top:48px}}
.hero,.pair{{grid-template-columns:minmax(0,1fr)}}.settings{{columns:1}}.big{{font-size:2.9rem}}
.wide{{display:none}}.narrow{{display:block}}.dream .rows{{font-size:.7rem}}
td:first-child{{white-space:normal}}math{{font-size:.86rem}}}}
@media print{{:root{{{_LIGHT}}}body{{font-size:10.5pt}}main{{max-width:none;padding:0}}section{{margin-top:28px}}
pre{{max-height:none;overflow:visible;white-space:pre-wrap}}
body{{-webkit-print-color-adjust:exact;print-color-adjust:exact}}}}
{CHART_STYLE}"""
