"""The style sheet of the page: light and dark, from phones to wide screens, and on paper."""

STYLE = """
:root {
  color-scheme: light dark;
  --page: #ffffff; --panel: #f6f7f9; --line: #d5d9e0; --text: #1b1f27; --faint: #565d6b;
  --first: #4a5568; --first-fill: #b4bdcb; --second: #0b5fa5; --bad: #a3231b; --bad-fill: #fbeae8;
  --good: #156a37; --good-fill: #e6f4ea; --focus: #0b5fa5;
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #14171c; --panel: #1d2128; --line: #3a414d; --text: #e8eaee; --faint: #a9b1bf;
    --first: #b4bdcb; --first-fill: #566072; --second: #6cb6ff; --bad: #ff9d94; --bad-fill: #3d1f1d;
    --good: #7fd8a0; --good-fill: #17321f; --focus: #6cb6ff;
  }
}
* { box-sizing: border-box; }
html { scroll-padding-top: 1rem; }
body {
  margin: 0; background: var(--page); color: var(--text);
  font: 1rem/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", sans-serif;
}
header, main, footer, nav { max-width: 72rem; margin: 0 auto; padding: 0 1rem; }
header { padding-top: 1.5rem; }
footer { padding-bottom: 3rem; color: var(--faint); }
h1 { font-size: 1.6rem; line-height: 1.25; margin: 0 0 .5rem; overflow-wrap: anywhere; }
h2 { font-size: 1.3rem; line-height: 1.3; margin: 2.5rem 0 .75rem; overflow-wrap: anywhere; }
h3 { font-size: 1.1rem; margin: 2rem 0 .5rem; }
h4 { font-size: 1rem; margin: 0 0 .25rem; overflow-wrap: anywhere; }
p, ul { margin: .5rem 0; max-width: 46rem; }
li, p, dd { overflow-wrap: anywhere; }
a { color: var(--second); }
code, pre, .name { font-family: ui-monospace, "DejaVu Sans Mono", Consolas, monospace; font-size: .9em; }
.name { unicode-bidi: isolate; overflow-wrap: anywhere; }
pre {
  background: var(--panel); border: 1px solid var(--line); border-radius: 6px; padding: .75rem; white-space: pre-wrap;
  overflow-wrap: anywhere; margin: .5rem 0;
}
:focus-visible { outline: 3px solid var(--focus); outline-offset: 2px; }
.skip { position: absolute; left: -10000px; }
.skip:focus { position: static; }
nav ul { display: flex; flex-wrap: wrap; gap: .25rem 1rem; padding: 0; list-style: none; max-width: none; }
.faint { color: var(--faint); }
.verdict { border-radius: 6px; padding: .3rem .9rem; border: 2px solid; font-weight: 600; margin: .75rem 0; }
.verdict ul { padding-left: 1.1rem; font-weight: 400; }
.verdict.good { color: var(--good); background: var(--good-fill); }
.verdict.bad { color: var(--bad); background: var(--bad-fill); }
.failed { color: var(--bad); font-weight: 600; }
.facts { display: grid; grid-template-columns: repeat(auto-fit, minmax(11rem, 1fr)); gap: .75rem; margin: 1rem 0; }
.facts > div { background: var(--panel); border: 1px solid var(--line); border-radius: 8px; padding: .7rem .9rem; }
.facts dt { color: var(--faint); font-size: .9rem; }
.facts dd { margin: 0; font-size: 1.35rem; font-weight: 600; line-height: 1.3; }
.facts dd + dd { font-size: .9rem; font-weight: 400; color: var(--faint); }
.table { overflow-x: auto; margin: .75rem 0; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .95rem; }
caption { position: sticky; left: 0; text-align: left; font-weight: 600; padding: .25rem 0; }
th, td { text-align: left; padding: .35rem .75rem .35rem 0; border-bottom: 1px solid var(--line); vertical-align: top; }
thead th { color: var(--faint); font-weight: 500; }
tbody th { font-weight: 500; min-width: 8rem; overflow-wrap: anywhere; }
.number { text-align: right; white-space: nowrap; }
td.hash { min-width: 12rem; max-width: 20rem; }
figure { margin: 1rem 0; }
figcaption { color: var(--faint); font-size: .9rem; max-width: 46rem; }
svg { display: block; max-width: 100%; }
.scatter { margin-bottom: .5rem; }
svg text { fill: var(--faint); font: 15px system-ui, sans-serif; }
.bars { width: 100%; height: 11rem; border-bottom: 1px solid var(--faint); }
.ends { display: flex; justify-content: space-between; gap: 1rem; color: var(--faint); font-size: .85rem; }
.ends span { overflow-wrap: anywhere; }
.bar { fill: var(--first-fill); }
.bar.worst { fill: var(--bad); }
.bar.new { fill: var(--second); }
.own { fill: var(--text); }
.block { fill: var(--second); fill-opacity: 0.45; stroke: var(--text); stroke-width: 0.6; }
.rule { stroke: var(--line); fill: none; }
.before { fill: var(--first-fill); stroke: none; }
.after { fill: none; stroke: var(--second); stroke-width: 2; }
.limit { stroke: var(--bad); stroke-width: 1.5; stroke-dasharray: 4 3; }
.point { fill: var(--second); }
.point.original { fill: var(--first); }
.front { fill: none; stroke: var(--second); stroke-width: 1.5; stroke-dasharray: 2 3; }
svg text.mark { fill: var(--text); font-weight: 600; }
.key { display: inline-block; width: 1.6em; height: .75em; margin-right: .35em; vertical-align: baseline; }
.key.filled { background: var(--first-fill); }
.key.lined { border: 2px solid var(--second); }
.cards { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 20rem), 1fr)); gap: 1rem; }
.card { border: 1px solid var(--line); border-radius: 8px; padding: .8rem; background: var(--panel); }
.card ul { padding-left: 1.1rem; }
.samples { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 15rem), 1fr)); gap: 1rem;
  padding: 0; list-style: none; max-width: none; }
.samples li { border: 1px solid var(--line); border-radius: 8px; padding: .7rem; background: var(--panel); }
.samples img { width: 8rem; height: 8rem; object-fit: contain; background: #000; border-radius: 4px; }
.samples img.small { image-rendering: pixelated; }
.samples dl { margin: .4rem 0 0; display: grid; grid-template-columns: auto 1fr; gap: 0 .6rem; font-size: .9rem; }
.samples dt { color: var(--faint); }
.samples dd { margin: 0; }
details { margin: .75rem 0; }
summary { cursor: pointer; font-weight: 600; padding: .3rem 0; }
.pair { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 24rem), 1fr)); gap: 1.5rem; }
.hidden { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); white-space: nowrap; }
@media (max-width: 40rem) {
  h1 { font-size: 1.35rem; }
  table { font-size: .9rem; }
  td.number { white-space: normal; min-width: 4.5rem; }
  tbody th { min-width: 6.5rem; }
  .facts { grid-template-columns: repeat(2, 1fr); }
  .facts dd { font-size: 1.1rem; }
}
@media print { nav, .skip { display: none; } .card, .samples li, tr { break-inside: avoid; } }
"""
