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
