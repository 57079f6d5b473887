// Every slide, all laid out at once, with what comes step by step in view; MathJax has set every formula by then.
async () => {
  await MathJax.startup.promise;
  Reveal.configure({controls: false, progress: false, slideNumber: false, viewDistance: 1000}); // they stand above the slides; a slide further off is not laid out
  const slides = Reveal.getSlides().map(slide => [slide, Reveal.getIndices(slide)]);
  document.querySelectorAll('.slides section').forEach(slide => slide.classList.add('present'));
  document.querySelectorAll('.fragment').forEach(part => part.classList.add('visible'));
  return slides.map(([slide, at]) => ({
    at: [at.h, at.v ?? 0],
    text: slide.innerText,
    overflow: [slide.scrollHeight - slide.clientHeight, slide.scrollWidth - slide.clientWidth],
    height: slide.getBoundingClientRect().height,
    images: [...slide.querySelectorAll('img')].map(image => [image.naturalWidth, image.offsetHeight, image.alt]),
    wrong: slide.querySelectorAll('[data-mjx-error]').length
  }));
}
