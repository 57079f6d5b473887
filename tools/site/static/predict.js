// Predict, then reveal: what follows a prediction stays folded until the reader has written one down, or asks to see it.
// What was written stays in this browser, beside the result, and on a card at the end of the page.
(() => {
  const boxes = [...document.querySelectorAll("div.prediction")];
  if (!boxes.length) return;
  const vi = document.documentElement.lang.startsWith("vi");
  const words = vi
    ? { write: "Dự đoán của bạn", placeholder: "Viết trước khi xem …", reveal: "Tôi đã ghi dự đoán: cho xem", skip: "Xem luôn", mine: "Bạn đã dự đoán:",
        card: "Dự đoán của bạn trong bài này", copy: "chép", copied: "đã chép", forget: "xóa tất cả", again: "sửa dự đoán" }
    : { write: "Your prediction", placeholder: "Write it before you look …", reveal: "I have written it down: show me", skip: "Just show me", mine: "You predicted:",
        card: "Your predictions in this notebook", copy: "copy", copied: "copied", forget: "forget them all", again: "change it" };
  const memory = {
    get: (key) => { try { return localStorage.getItem(`prediction-${key}`); } catch { return null; } },
    set: (key, value) => { try { localStorage.setItem(`prediction-${key}`, value); } catch { /* private window */ } },
    forget: (key) => { try { localStorage.removeItem(`prediction-${key}`); } catch { /* private window */ } },
  };
  const make = (name, properties = {}, ...children) => {
    const node = Object.assign(document.createElement(name), properties);
    node.append(...children);
    return node;
  };
  const question = (box) => [...document.querySelectorAll("article p")].filter((p) =>
    p.compareDocumentPosition(box) & Node.DOCUMENT_POSITION_FOLLOWING && p.querySelector("strong")?.textContent.match(/^(Dự đoán|Predict)/)).pop();

  const card = make("aside", { className: "prediction-card" });
  function fillCard() {
    const written = boxes.filter((box) => memory.get(box.dataset.key));
    card.hidden = !written.length;
    const list = make("dl", {}, ...written.flatMap((box) =>
      [make("dt", {}, question(box)?.textContent ?? ""), make("dd", {}, memory.get(box.dataset.key))]));
    const copy = make("button", { type: "button", onclick: async () => {
      await navigator.clipboard.writeText(written.map((box) => `${question(box)?.textContent}\n→ ${memory.get(box.dataset.key)}`).join("\n\n"));
      copy.textContent = words.copied;
    } }, words.copy);
    const forget = make("button", { type: "button", onclick: () => { boxes.forEach((box) => memory.forget(box.dataset.key)); location.reload(); } }, words.forget);
    card.replaceChildren(make("h2", {}, words.card), list, make("p", {}, copy, " ", forget));
  }

  for (const box of boxes) {
    const hidden = [];
    for (let next = box.nextElementSibling; next && !next.matches("section, div.prediction"); next = next.nextElementSibling) hidden.push(next);
    const field = make("textarea", { rows: 2, placeholder: words.placeholder, value: memory.get(box.dataset.key) ?? "" });
    const label = make("label", {}, words.write, field);
    const show = make("button", { type: "button" }, words.skip);
    const mine = make("p", { className: "prediction-mine" });
    const again = make("button", { type: "button", className: "prediction-again" }, words.again);
    const name = () => (show.textContent = field.value.trim() ? words.reveal : words.skip);
    field.addEventListener("input", name);
    function fold(folded) {
      hidden.forEach((node) => node.classList.toggle("folded", folded));
      label.hidden = show.hidden = !folded;
      const text = field.value.trim();
      mine.hidden = again.hidden = folded || !text;
      mine.replaceChildren(make("strong", {}, words.mine), ` ${text}`);
    }
    show.addEventListener("click", () => {
      const text = field.value.trim();
      if (text) memory.set(box.dataset.key, text);
      fold(false);
      fillCard();
      dispatchEvent(new Event("resize"));
    });
    again.addEventListener("click", () => { fold(true); field.focus(); });
    box.append(label, show, mine, again);
    name();
    fold(!field.value.trim());
  }
  document.querySelector("article")?.append(card);
  fillCard();
  // A link, or a search result, into what is folded opens it.
  const open = () => {
    const goal = document.getElementById(decodeURIComponent(location.hash.slice(1)));
    if (goal?.closest(".folded")) document.querySelectorAll(".folded").forEach((node) => node.classList.remove("folded"));
  };
  addEventListener("hashchange", open);
  open();
})();
