// What axe calls serious, asked by hand: controls without a name, ids twice, contrast below 4.5, headings that skip a level.
() => {
  const found = [];
  const seen = (e) => e.checkVisibility();
  const start = (e) => e.outerHTML.slice(0, 80);
  const named = (e) => e.getAttribute("aria-label") || e.getAttribute("aria-labelledby") || e.labels?.length
    || e.textContent.trim() || e.alt;
  for (const e of document.querySelectorAll("button, input, a, [role=application], [role=img], img, progress")) {
    if (seen(e) && !named(e)) found.push(`no name: ${start(e)}`);
  }
  for (const e of document.querySelectorAll("meter")) {
    if (seen(e) && !e.closest("dd") && !named(e)) found.push(`no name: ${start(e)}`);
  }
  const ids = [...document.querySelectorAll("[id]")].map((e) => e.id);
  for (const id of ids) if (ids.indexOf(id) !== ids.lastIndexOf(id)) found.push(`twice: ${id}`);
  for (const e of document.querySelectorAll("[aria-describedby], [aria-labelledby]")) {
    const named = ["aria-describedby", "aria-labelledby"].flatMap((name) => (e.getAttribute(name) ?? "").split(" "));
    for (const id of named.filter(Boolean)) if (!ids.includes(id)) found.push(`points nowhere: ${id}`);
  }

  const parts = (colour) => colour.match(/[\d.]+/g).map(Number);
  const light = (colour) => {
    const [r, g, b] = parts(colour).slice(0, 3).map((v) => (v / 255 <= 0.03928 ? v / 255 / 12.92 : ((v / 255 + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = (e) => {
    for (let at = e; at; at = at.parentElement) {
      const colour = getComputedStyle(at).backgroundColor;
      if (parts(colour).length < 4 || parts(colour)[3] > 0.99) return colour;
    }
    return "rgb(255, 255, 255)";
  };
  for (const e of document.querySelectorAll("body *")) {
    const text = [...e.childNodes].some((node) => node.nodeType === Node.TEXT_NODE && node.textContent.trim());
    if (!text || !seen(e) || e.closest("svg, noscript") || e.matches(":disabled")) continue;
    const [a, b] = [light(getComputedStyle(e).color), light(behind(e))];
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (ratio < 4.5) found.push(`contrast ${ratio.toFixed(1)}: ${start(e)}`);
  }

  let last = 0;
  for (const e of document.querySelectorAll("h1, h2, h3, h4")) {
    if (!seen(e)) continue;
    const level = Number(e.tagName[1]);
    if (level > last + 1) found.push(`heading skips to ${level}: ${e.textContent}`);
    last = level;
  }
  if (!document.documentElement.lang) found.push("no language");
  if (document.querySelectorAll("main").length !== 1) found.push("not one main");
  return found;
}
