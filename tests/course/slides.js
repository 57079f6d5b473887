// Every slide as it is when one stands on it; MathJax has set every formula by then.  Of a plan its own slides, which
// begin with their minutes: the others are those of the decks.
async plan => {
  await MathJax.startup.promise;
  const own = slide => !plan || /^\d+[–-]\d+/.test(slide.textContent.trim());
  return Reveal.getSlides().filter(own).map(slide => {
    const at = Reveal.getIndices(slide);
    Reveal.slide(at.h, at.v);
    slide.querySelectorAll('.fragment').forEach(part => part.classList.add('visible'));
    return {
      at: [at.h, at.v ?? 0],
      text: slide.innerText,
      overflow: [slide.scrollHeight - slide.clientHeight, slide.scrollWidth - slide.clientWidth],
      height: slide.getBoundingClientRect().height,
      images: [...slide.querySelectorAll('img')].map(image => [image.naturalWidth, image.offsetHeight, image.alt]),
      wrong: slide.querySelectorAll('[data-mjx-error]').length
    };
  });
}
