// The language that a reader chose is where the front page leads next time.
document.addEventListener("click", (event) => {
  const link = event.target.closest("a[data-language]");
  if (link) {
    try { localStorage.setItem("language", link.dataset.language); } catch { /* private window */ }
  }
});

// Some keyboards send a letter and its marks one by one (NFD); the index has them in one (NFC).
document.addEventListener("input", (event) => {
  const box = event.target;
  const whole = box.value?.normalize("NFC");
  if (box.closest("pagefind-modal") && box.value !== whole) box.value = whole;
}, true);

// The index holds words with đ a second time, with d, behind an invisible sign (see build.py): found, but not shown.
const doubles = /\u2063[\p{L}\p{M}\p{N}_]+\.?\s*/gu;
new MutationObserver((changes) => {
  for (const { target } of changes) {
    const texts = document.createTreeWalker(target, NodeFilter.SHOW_TEXT);
    while (texts.nextNode()) {
      const text = texts.currentNode;
      if (text.data.includes("\u2063")) text.data = text.data.replace(doubles, "");
    }
  }
}).observe(document.querySelector("pagefind-modal"), { childList: true, subtree: true });
