// What the browser sees of a page of the site, with all pictures loaded and formulas set.
async () => {
  if (window.MathJax?.startup) await window.MathJax.startup.promise;
  [...document.images].forEach(image => { image.loading = 'eager'; });
  await Promise.all([...document.images].map(image => image.decode().catch(() => {})));
  const words = document.querySelector('article').cloneNode(true);
  words.querySelectorAll('pre, code, mjx-container').forEach(node => node.remove());
  const root = document.documentElement;
  const scrolls = node => node.tagName !== 'ARTICLE' &&
    (/auto|scroll/.test(getComputedStyle(node).overflowX) || scrolls(node.parentElement));
  return {
    lang: root.lang,
    missing: [...document.images].filter(image => !image.naturalWidth).map(image => image.src),
    unseen: [...document.querySelectorAll('article img')].filter(image => image.alt.length < 20).map(image => image.src),
    too_wide: root.scrollWidth - root.clientWidth,
    cut: [...document.querySelectorAll('article *')].filter(node =>
      node.getBoundingClientRect().right > root.clientWidth + 1 && !scrolls(node)).map(node => node.outerHTML.slice(0, 200)),
    formulas: document.querySelectorAll('.math').length,
    undrawn: [...document.querySelectorAll('.math')].filter(node => !node.querySelector('mjx-container svg')).length,
    wrong: document.querySelectorAll('[data-mml-node=merror], mjx-merror').length,
    raw: words.textContent.match(/\$[^$]*\$|\\\(|\\\[|\\frac/g) ?? [],
    boxes: document.querySelectorAll('pagefind-modal-trigger, .sidebar-search, form[role=search]').length,
  };
}
