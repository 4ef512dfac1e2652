"""The page's template: one file with its own style, no script and no address outside of itself."""

from __future__ import annotations

TEMPLATE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<meta name="color-scheme" content="light dark">
<link rel="icon" href="data:,">
<title>{{ name }}: audit</title>
<style>
:root {
  --paper: #fbfbf9; --card: #ffffff; --ink: #1d2126; --soft: #5a6470; --line: #dcdfe3; --focus: #1f5fbf;
  --error: #b3261e; --warning: #8a5a00; --note: #3d5a80;
  --train: #4676a9; --val: #c98a1b; --test: #3f8f6b; --all: #4676a9; --unused: #9aa3ad;
}
@media (prefers-color-scheme: dark) {
  :root {
    --paper: #14171a; --card: #1c2024; --ink: #e6e8ea; --soft: #a3adb8; --line: #333a41; --focus: #8ab8ff;
    --error: #ff8a80; --warning: #f0bd5e; --note: #9fc2ea;
    --train: #6f9fd2; --val: #dba53e; --test: #5cb58c; --all: #6f9fd2; --unused: #6b747d;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0 auto; max-width: 76rem; padding: 1.5rem 1rem 4rem; background: var(--paper); color: var(--ink);
  font: 1rem/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; overflow-wrap: anywhere;
}
h1 { font-size: 1.6rem; line-height: 1.2; margin: 0 0 .25rem; }
h2 { font-size: 1.15rem; line-height: 1.3; margin: 0; }
p { margin: .4rem 0; max-width: 46rem; }
a { color: inherit; }
:focus-visible { outline: 3px solid var(--focus); outline-offset: 2px; border-radius: 2px; }
.skip { position: absolute; left: -100rem; }
.skip:focus { left: 1rem; top: .5rem; background: var(--card); padding: .5rem 1rem; z-index: 1; }
.soft, .more { color: var(--soft); }
.verdict { font-size: 1.15rem; text-wrap: balance; margin-top: .75rem; }
nav { max-width: 46rem; }
nav ul { list-style: none; padding: 0; margin: 1rem 0 0; border-top: 1px solid var(--line); }
nav li { border-bottom: 1px solid var(--line); }
nav a {
  display: grid; grid-template-columns: 5.5rem 1fr auto; gap: .5rem; padding: .45rem .25rem; text-decoration: none;
}
nav a:hover { background: var(--card); }
nav .count { font-variant-numeric: tabular-nums; }
.tag { font-weight: 650; font-size: .9rem; }
.error { color: var(--error); } .warning { color: var(--warning); } .note { color: var(--note); }
section { margin-top: 2.25rem; padding-top: 1.25rem; border-top: 1px solid var(--line); }
.head { display: flex; flex-wrap: wrap; gap: .25rem .75rem; align-items: baseline; }
.advice::before { content: "\\2192\\00a0"; }
.gallery { list-style: none; margin: 1rem 0 0; padding: 0; display: grid; gap: .75rem;
  grid-template-columns: repeat(auto-fill, minmax(min(10.5rem, 45%), 1fr)); }
.gallery.together { grid-template-columns: repeat(auto-fill, minmax(min(21rem, 100%), 1fr)); }
.card { background: var(--card); border: 1px solid var(--line); border-radius: .4rem; padding: .5rem; min-width: 0; }
.images { display: grid; grid-template-columns: repeat(2, minmax(0, 1fr)); gap: .5rem; }
.images.one { grid-template-columns: minmax(0, 1fr); }
figure { margin: 0; min-width: 0; }
code { font-size: .9em; white-space: nowrap; }
.frame { aspect-ratio: 4 / 3; display: grid; place-items: center; background: var(--paper); border-radius: .2rem;
  position: relative; overflow: hidden; }
.frame img { position: absolute; inset: 0; width: 100%; height: 100%; object-fit: contain; }
{% if pixelated %}.frame img { image-rendering: pixelated; }{% endif %}
.frame span { font-size: .8rem; color: var(--soft); padding: .5rem; text-align: center; }
figcaption { font-size: .8rem; line-height: 1.35; margin-top: .35rem; }
figcaption .path { color: var(--soft); display: block; }
.detail { font-size: .85rem; margin: .4rem 0 0; }
table { border-collapse: collapse; width: 100%; margin-top: .75rem; table-layout: fixed; }
caption { text-align: left; }
th, td { padding: .15rem .25rem; vertical-align: middle; text-align: left; font-weight: 400; font-size: .9rem; }
th { width: 12rem; }
td.number { width: 4.5rem; text-align: right; font-variant-numeric: tabular-nums; }
svg.bar { display: block; width: 100%; height: .9rem; }
.key { display: inline-block; width: .8rem; height: .8rem; border-radius: .15rem; margin: 0 .3rem 0 .9rem;
  vertical-align: -1px; }
.key:first-child { margin-left: 0; }
.fill-train { fill: var(--train); background: var(--train); } .fill-val { fill: var(--val); background: var(--val); }
.fill-test { fill: var(--test); background: var(--test); } .fill-all { fill: var(--all); background: var(--all); }
.fill-unused { fill: var(--unused); background: var(--unused); }
footer { margin-top: 3rem; color: var(--soft); font-size: .85rem; }
@media (max-width: 30rem) { nav a { grid-template-columns: 4.6rem 1fr auto; } th { width: 32%; } }
@media print { nav { display: none; } section { break-inside: avoid; } }
</style>
</head>
<body>
<a class="skip" href="#findings">Skip to the findings</a>
<header>
<h1>{{ name }}</h1>
<p class="soft">{{ headline }}</p>
<p class="verdict">{{ verdict }}</p>
</header>
{% if sections %}
<nav aria-label="Findings">
<ul>
{% for s in sections %}
<li><a href="#{{ s.id }}"><span class="tag {{ s.severity }}">{{ s.severity }}</span><span>{{ s.title }}</span>
<span class="count">{{ "{:,}".format(s.count) }}</span></a></li>
{% endfor %}
{% if chart %}<li><a href="#classes"><span></span><span>Images of each class</span><span></span></a></li>{% endif %}
</ul>
</nav>
{% endif %}
<main id="findings">
{% for s in sections %}
<section id="{{ s.id }}" data-kind="{{ s.kind }}" aria-labelledby="{{ s.id }}-title">
<div class="head"><h2 id="{{ s.id }}-title">{{ s.title }}</h2>
<span class="tag {{ s.severity }}">{{ s.severity }}</span></div>
<p>{{ s.message }}</p>
{% if s.advice[0][0] %}
<p class="advice">{% for text, is_option in s.advice -%}
{% if is_option %}<code>{{ text }}</code>{% else %}{{ text }}{% endif %}
{%- endfor %}</p>
{% endif %}
{% if s.lines %}
<ul>
{% for line in s.lines %}<li>{{ line }}</li>
{% endfor %}
</ul>
{% endif %}
{% if s.examples %}
<ul class="gallery{{ ' together' if s.examples[0].images|length > 1 }}">
{% for card in s.examples %}
<li class="card">
<div class="images{{ ' one' if card.images|length == 1 }}">
{% for image in card.images %}
<figure>
<div class="frame">
{% if image.uri %}<img src="{{ image.uri }}" alt="{{ image.path }}" decoding="async">
{% else %}<span>no picture</span>{% endif %}
</div>
<figcaption><b>{{ image.label }}</b>{{ ' · ' if image.split and image.label }}{{ image.split }}
<span class="path">{{ image.path }}</span></figcaption>
</figure>
{% endfor %}
</div>
{% if card.detail %}<p class="detail">{{ card.detail }}</p>{% endif %}
{% if card.num_more %}<p class="detail more">and {{ "{:,}".format(card.num_more) }} more</p>{% endif %}
</li>
{% endfor %}
</ul>
{% endif %}
{% if s.num_more %}<p class="more">and {{ "{:,}".format(s.num_more) }} more</p>{% endif %}
</section>
{% endfor %}
{% if chart %}
<section id="classes" aria-labelledby="classes-title">
<h2 id="classes-title">Images of each class</h2>
<p>{% for split in chart.splits %}<span class="key fill-{{ split }}"></span>{{ split }}{% endfor %}</p>
<table>
{% for bar in chart.bars %}
<tr><th scope="row">{{ bar.name }}</th>
<td><svg class="bar" viewBox="0 0 100 10" preserveAspectRatio="none" role="img" aria-label="{{ bar.numbers }}">
<title>{{ bar.numbers }}</title>
{% for part in bar.parts %}
<rect class="fill-{{ part.split }}" x="{{ part.x }}" y="0" width="{{ part.width }}" height="10"/>
{% endfor %}</svg></td>
<td class="number">{{ "{:,}".format(bar.total) }}</td></tr>
{% endfor %}
</table>
{% if chart.num_left_out %}
<p class="more">{{ "{:,}".format(chart.num_left_out) }} classes between the last two are left out.</p>
{% endif %}
</section>
{% endif %}
</main>
<footer>Made by <code>tellapart check</code>: read in {{ "%.1f"|format(seconds.reading) }} s{% if was_compared %},
compared in {{ "%.1f"|format(seconds.comparing) }} s{% else %}; near duplicates were not looked for{% endif %}.
Nothing in the data was changed.</footer>
</body>
</html>
"""
