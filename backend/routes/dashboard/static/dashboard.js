// Refreshes the parts of a page that says so, and nothing else; without this file all pages work.
"use strict";
(() => {
  const live = document.getElementById("live");
  if (!live) return;
  const text = document.getElementById("live-text");
  const every = 1000 * Number(live.dataset.every);
  let timer = 0;
  let failures = 0;

  const say = (words, lost) => {
    text.textContent = words;
    live.classList.toggle("lost", lost);
  };

  // What somebody is filling in, or has open, is left alone.
  const busy = (part) =>
    part.querySelector("details[open]") !== null ||
    (part.contains(document.activeElement) &&
      ["INPUT", "SELECT", "BUTTON"].includes(document.activeElement.tagName));

  const put = (part, html) => {
    if (part.dataset.was === html || busy(part)) return;
    const scrolled = part.querySelector(".scroll");
    const top = scrolled ? scrolled.scrollTop : 0;
    const focused = part.contains(document.activeElement) ? document.activeElement : null;
    const link = focused && focused.getAttribute("href");
    const id = focused && focused.id;
    const onScroll = focused !== null && focused === scrolled;
    part.innerHTML = html; // escaped by the server's templates
    part.dataset.was = html;
    const now = part.querySelector(".scroll");
    if (now) now.scrollTop = top;
    if (onScroll && now) now.focus();
    else if (id && document.getElementById(id)) document.getElementById(id).focus();
    else if (link) part.querySelector(`a[href="${CSS.escape(link)}"]`)?.focus();
  };

  const look = async () => {
    window.clearTimeout(timer);
    if (document.hidden) return;
    try {
      const answer = await fetch(live.dataset.live, {
        headers: { Accept: "application/json" },
        credentials: "same-origin",
        signal: AbortSignal.timeout(8000),
      });
      if (answer.status === 401) {
        say(live.dataset.ended, true);
        return; // the session has ended: asking again would not help
      }
      if (!answer.ok) throw new Error(String(answer.status));
      const told = await answer.json();
      for (const part of document.querySelectorAll("[data-part]")) {
        if (part.dataset.part in told.parts) put(part, told.parts[part.dataset.part]);
      }
      failures = 0;
      say(`${live.dataset.fresh} ${told.at}`, false);
    } catch {
      failures += 1;
      say(live.dataset.lost, true);
    }
    timer = window.setTimeout(look, every * Math.min(6, 1 + failures));
  };

  document.addEventListener("visibilitychange", () => {
    if (document.hidden) {
      window.clearTimeout(timer);
      say(live.dataset.paused, false);
    } else {
      look();
    }
  });
  window.addEventListener("online", look);
  window.addEventListener("offline", () => say(live.dataset.lost, true));
  timer = window.setTimeout(look, every);
})();
