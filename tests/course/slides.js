// Every slide as it is when one stands on it; MathJax has set every formula by then.
async () => {
  await MathJax.startup.promise;
  Reveal.configure({controls: false, progress: false, slideNumber: false, viewDistance: 1}); // they take the most time, or stand above
  return Reveal.getSlides().map(slide => {
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
