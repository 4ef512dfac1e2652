"""What a page is asked in a browser."""

from __future__ import annotations

# WCAG 2.2, 1.4.3: the contrast of text against what lies behind it, at least 4.5.
WEAK_CONTRAST = """
(selectors) => {
  const parse = text => text.match(/[0-9.]+/g).map(Number);
  const linear = v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
  const light = rgb => rgb.slice(0, 3).map(v => linear(v / 255))
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const behind = element => {
    for (let e = element; e; e = e.parentElement) {
      const color = parse(getComputedStyle(e).backgroundColor);
      if (color.length < 4 || color[3] > 0) return color;
    }
  };
  const weak = [];
  for (const selector of selectors) for (const element of document.querySelectorAll(selector)) {
    const [a, b] = [light(parse(getComputedStyle(element).color)), light(behind(element))].sort((x, y) => y - x);
    if ((a + 0.05) / (b + 0.05) < 4.5) weak.push(selector);
  }
  return [...new Set(weak)];
}
"""
