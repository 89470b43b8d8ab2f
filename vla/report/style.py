"""The style sheet of the page: one column on a phone, several on a desk, light and dark as the reader's system says."""

STYLE = """
:root {
  color-scheme: light dark;
  --paper: #fbfbfa; --card: #ffffff; --ink: #1b1e23; --soft: #565c66; --rule: #dcdfe4; --grid: #e4e7eb;
  --accent: #0b62a8; --good: #0a6b42; --bad: #a8321d; --open: #6a5300;
  --good-paper: #e0f3e8; --bad-paper: #fbe6e1; --open-paper: #f7efcf;
  --c0: #0067a5; --c1: #c4500a; --c2: #00805e; --c3: #a8437f; --c4: #5b5fc7; --c5: #8a6d00; --c6: #2f8fb3;
  --c7: #6b6f76;
}
@media (prefers-color-scheme: dark) {
  :root {
    --paper: #14171b; --card: #1c2026; --ink: #e8eaed; --soft: #a9b0ba; --rule: #343a43; --grid: #2d333b;
    --accent: #7cc0f5; --good: #7fdcae; --bad: #ffab98; --open: #ecd37a;
    --good-paper: #123626; --bad-paper: #46211a; --open-paper: #3a3214;
    --c0: #5cb3f0; --c1: #f39a55; --c2: #3fc79d; --c3: #e591c3; --c4: #a5a8f5; --c5: #e3c64d; --c6: #7fd4ea;
    --c7: #a9b0ba;
  }
}
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; }
body {
  margin: 0 auto; padding: 1.5rem clamp(1rem, 4vw, 3rem) 3rem; max-width: 90rem; background: var(--paper);
  color: var(--ink);
  font: 1rem/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Liberation Sans", sans-serif; overflow-wrap: anywhere;
}
h1 { font-size: clamp(1.6rem, 5vw, 2.3rem); line-height: 1.2; margin: 0; letter-spacing: -0.01em; }
h2 { font-size: 1.4rem; margin: 0 0 .5rem; padding-top: 1.2rem; border-top: 1px solid var(--rule); }
h3 { font-size: 1.05rem; margin: 1.2rem 0 .4rem; }
h4 { font-size: .95rem; margin: 0 0 .3rem; }
a { color: var(--accent); }
p { margin: .3rem 0 .8rem; max-width: 70ch; }
.lead, .note, figcaption, small, footer { color: var(--soft); }
nav { display: flex; flex-wrap: wrap; gap: .3rem 1.1rem; margin: 1.2rem 0 0; font-size: .95rem; }
section { margin-top: 2rem; }
footer { margin-top: 3rem; font-size: .85rem; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(8.5rem, 1fr)); gap: .7rem; margin: 1rem 0; }
.tile { background: var(--card); border: 1px solid var(--rule); border-radius: .6rem; padding: .7rem .9rem; }
.tile b { display: block; font-size: 1.6rem; line-height: 1.2; font-weight: 650; font-variant-numeric: tabular-nums; }
.tile span { display: block; font-size: .9rem; }
.tile small { font-size: .8rem; }
dl { margin: .8rem 0; font-size: .95rem; }
dl div { display: grid; grid-template-columns: minmax(7rem, 13rem) 1fr; gap: .2rem 1rem; padding: .2rem 0; }
dt { color: var(--soft); }
dd { margin: 0; }
.cards {
  display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 22rem), 1fr)); gap: 1rem;
  margin: .8rem 0;
}
figure { margin: 0; min-width: 0; }
.cards > figure {
  background: var(--card); border: 1px solid var(--rule); border-radius: .6rem; padding: .8rem .9rem;
}
.cards > figure > h3 { margin-top: 0; }
figcaption { font-size: .85rem; line-height: 1.4; margin-top: .4rem; }
svg { display: block; width: 100%; height: auto; color: var(--ink); overflow: visible; }
svg text { font-family: inherit !important; }
video { width: 100%; border-radius: .4rem; background: #000; }
.legend {
  display: flex; flex-wrap: wrap; gap: .1rem 1rem; list-style: none; margin: 0 0 .3rem; padding: 0;
  font-size: .85rem;
}
.swatch {
  display: inline-block; width: 1.1em; margin-right: .4em; vertical-align: .2em; border-top: .2em solid var(--ink);
}
.swatch.dashed { border-top-style: dashed; }
.s0 { border-color: var(--c0); } .s1 { border-color: var(--c1); } .s2 { border-color: var(--c2); }
.s3 { border-color: var(--c3); } .s4 { border-color: var(--c4); } .s5 { border-color: var(--c5); }
.s6 { border-color: var(--c6); } .s7 { border-color: var(--c7); }
.scroll { overflow-x: auto; max-width: 100%; margin: .6rem 0; }
.paper { background: #fff; border-radius: .6rem; }
.paper img { display: block; width: 100%; min-width: 40rem; }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; overflow-wrap: normal; }
th, td {
  text-align: left; padding: .35rem 1.2rem .35rem 0; border-bottom: 1px solid var(--rule); vertical-align: top;
}
thead th { color: var(--soft); font-weight: 500; white-space: nowrap; }
tbody th { font-weight: 550; }
td, tbody th { white-space: nowrap; }
.long { white-space: normal; min-width: 16rem; max-width: 36rem; overflow-wrap: anywhere; }
details { margin: .6rem 0; }
details .scroll { max-height: 30rem; overflow-y: auto; }
summary { cursor: pointer; color: var(--accent); padding: .2rem 0; }
pre {
  background: var(--card); border: 1px solid var(--rule); border-radius: .5rem; padding: .8rem; margin: .5rem 0;
  overflow: auto; max-height: 30rem; font-size: .85rem; overflow-wrap: normal;
}
.verdicts { display: flex; flex-wrap: wrap; gap: .4rem 1.4rem; list-style: none; padding: 0; margin: .8rem 0; }
.verdict { border-radius: 1rem; padding: .1rem .6rem; font-size: .82rem; font-weight: 600; white-space: nowrap; }
.verdict.good { background: var(--good-paper); color: var(--good); }
.verdict.bad { background: var(--bad-paper); color: var(--bad); }
.verdict.open { background: var(--open-paper); color: var(--open); }
.bars { list-style: none; margin: .4rem 0; padding: 0; }
.bars li { margin: .5rem 0; }
.bars span { display: block; font-size: .9rem; }
.bar {
  display: inline-block; height: .8rem; background: var(--c1); border-radius: .2rem; margin-right: .5rem;
  min-width: 2px;
}
.episode {
  background: var(--card); border: 1px solid var(--rule); border-radius: .6rem; padding: .8rem .9rem;
  margin: .9rem 0; max-width: 52rem;
}
.episode h3 { margin-top: 0; }
.camera { color: var(--soft); font-size: .85rem; margin: .3rem 0 .1rem; }
.strip {
  display: grid; grid-auto-flow: column; grid-auto-columns: 1fr; gap: 0; margin-left: 15%; margin-right: 1.5%;
}
.strip figure { padding: 0 2px; }
.strip img { display: block; width: 100%; border-radius: .25rem; }
.strip figcaption { text-align: center; font-size: .75rem; margin: .1rem 0 .3rem; }
.narrow { display: none; }
@media (max-width: 40rem) {
  .wide { display: none; }
  .narrow { display: block; }
  .stacked, .stacked tbody, .stacked tr, .stacked th, .stacked td {
    display: block; border: 0; padding: 0; min-width: 0;
  }
  .stacked thead { display: none; }
  .stacked tr { padding: .5rem 0; border-bottom: 1px solid var(--rule); }
  .stacked td { white-space: normal; margin-top: .2rem; }
  body { padding-top: 1rem; }
  dl div { grid-template-columns: 1fr; gap: 0; padding: .3rem 0; }
  .strip { margin-left: 0; margin-right: 0; grid-auto-flow: row; grid-template-columns: repeat(3, 1fr); }
}
@media print { details { display: none; } figure, .episode { break-inside: avoid; } }
"""
"""Colours are checked for contrast on both papers; the curves' are apart for every kind of colour blindness."""
