"""Draws docs/demo.svg: two charts of a run's report side by side, in the report's own light and dark colours.
usage: selfreward demo --out RUN; python scripts/figures/demo.py RUN        (no packages)"""
import os, re, sys

HERE, TITLES = os.path.dirname(os.path.abspath(__file__)), ["True score by model", "Rewards"]
WIDTH, HEIGHT, EDGE, HEAD = 360, 200, 14, 26
page = open(os.path.join(sys.argv[1], "report.html"), encoding="utf-8").read()
css = re.search(r"<style>(.*?)</style>", page, re.S).group(1)
# Of the page's style: the colours, and what speaks of the inside of a chart.
colours = css[: css.index("* {")]
inside = [line for line in css.splitlines() if re.match(r"svg (text|\.)|\.(rule|mark|axis|bar|error|line|dot)\b", line)]
charts = {re.search(r"<h3>(.*?)</h3>", f).group(1): f for f in re.findall(r'<figure class="chart">.*?</figure>', page, re.S)}

panels, texts = [], []
for i, title in enumerate(TITLES):
    head, body, text = re.search(r'<div class="heading">(.*?)</div>.*?<svg .*?</title>\n(<desc.*?</desc>)(.*?)</svg>', charts[title], re.S).group(1, 3, 2)
    x, names = i * WIDTH, re.findall(r'class="key k\d"></i>(.*?)</span>', head)
    texts.append(f"{title}. " + re.sub("<.*?>", "", text))
    legend = "".join(f'<path class="line s{k}" d="M{150 + 95 * k} 15h24"/><text class="name" x="{180 + 95 * k}" y="19">{name}</text>' for k, name in enumerate(names))
    panels.append(f'<g transform="translate({EDGE + x} {EDGE})"><text class="title" x="8" y="19">{title}</text>{legend}'
                  f'<g transform="translate(0 {HEAD})">{body.strip()}</g></g>')
size = f"{len(TITLES) * WIDTH + 2 * EDGE} {HEIGHT + HEAD + 2 * EDGE}"
svg = f"""<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {size}" role="img" aria-labelledby="t d">
<title id="t">A demo run of selfreward</title>
<desc id="d">{" ".join(texts)}</desc>
<style>
{colours.strip()}
{chr(10).join(inside)}
svg .title {{ fill: var(--text); font-size: 14px; font-weight: bold; }}
.ground {{ fill: var(--ground); stroke: var(--rule); }}
</style>
<rect class="ground" x=".5" y=".5" width="{len(TITLES) * WIDTH + 2 * EDGE - 1}" height="{HEIGHT + HEAD + 2 * EDGE - 1}" rx="8"/>
{chr(10).join(panels)}
</svg>
"""
open(os.path.join(HERE, "../../docs/demo.svg"), "w", encoding="utf-8").write(svg)
