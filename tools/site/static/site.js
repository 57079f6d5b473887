// The language that a reader chose is where the front page leads next time.
document.addEventListener("click", (event) => {
  const link = event.target.closest("a[data-language]");
  if (link) {
    try { localStorage.setItem("language", link.dataset.language); } catch { /* private window */ }
  }
});

// The search, which weighs more than most pages, comes when it is asked for, and then opens.
document.querySelector("pagefind-modal-trigger button").addEventListener("click", async () => {
  document.head.append(
    Object.assign(document.createElement("link"), { rel: "stylesheet", href: "pagefind/pagefind-component-ui.css" }),
    Object.assign(document.createElement("script"), { src: "pagefind/pagefind-component-ui.js" }));
  await customElements.whenDefined("pagefind-modal");
  const modal = document.querySelector("pagefind-modal");
  while (!modal.querySelector("dialog[open]")) {
    modal.open();  // does nothing until its parts are there
    await new Promise(requestAnimationFrame);
  }
}, { once: true });

// Code can be folded away, on all pages; what it printed and drew stays.
const fold = document.querySelector(".fold-code");
function foldCode(folded) {
  document.documentElement.classList.toggle("no-code", folded);
  fold?.setAttribute("aria-pressed", folded);
  try { localStorage.setItem("no-code", folded ? "1" : ""); } catch { /* private window */ }
}
try { foldCode(Boolean(localStorage.getItem("no-code"))); } catch { /* private window */ }
fold?.addEventListener("click", () => foldCode(!document.documentElement.classList.contains("no-code")));

// On a phone a figure is shown whole, so that its panels can be compared; a touch enlarges it, and it scrolls.
for (const image of document.querySelectorAll(".cell_output img.wide")) {
  image.tabIndex = 0;
  image.addEventListener("click", () => image.classList.toggle("enlarged"));
  image.addEventListener("keydown", ({ key }) => key === "Enter" && image.classList.toggle("enlarged"));
}

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
