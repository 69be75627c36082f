// Keeps a page up to date: replaces the parts that the server sends. If the server does not answer,
// the page says so and since when, and reconnects.
"use strict";

(() => {
  const SILENCE = 12000; // milliseconds; the server sends an event every 5 s
  const FIRST = 500, LONGEST = 30000;
  const body = document.body;
  const address = body.dataset.live;
  const notice = document.getElementById("connection");
  const kept = new Map(); // parts that came while the mouse button was down
  let pressed = false;
  let source, watch, boot, heard = Date.now(), lost = 0, wait = FIRST, said = "";

  const time = (moment) => new Date(moment).toLocaleTimeString();

  function say(text, kind) {
    if (said === text) return;
    said = text;
    notice.textContent = text;
    notice.className = kind;
    notice.hidden = !text;
  }

  const asOf = document.getElementById("asof");

  function alive() {
    clearTimeout(watch);
    watch = setTimeout(again, SILENCE);
  }

  function listening() {
    heard = Date.now();
    if (asOf) asOf.textContent = `As of ${time(heard)}, your time.`;
    alive();
  }

  function close() {
    clearTimeout(watch);
    source.close();
  }

  // After a desk has ended, another program may answer at its address: send nothing there.
  function end(text) {
    close();
    setTimeout(say, 1000, text, "bad"); // a page that is being left may end here as well
    for (const one of document.querySelectorAll("button, input, textarea, select")) one.disabled = true;
    for (const one of document.querySelectorAll("a[href]")) one.removeAttribute("href");
  }

  function again() {
    if ("once" in body.dataset) {
      end("This desk has ended. Close this page. To stop all releases: flo site stop. To open a new desk: flo site desk.");
      return;
    }
    close();
    if (!lost) lost = Date.now();
    say(`No answer since ${time(heard)}: this page shows the state of that time. Trying again…`, "bad");
    setTimeout(connect, wait);
    wait = Math.min(2 * wait, LONGEST);
  }

  function connect() {
    source = new EventSource(address);
    source.addEventListener("hello", (event) => {
      listening();
      const restarted = boot && boot !== event.data;
      boot = event.data;
      wait = FIRST;
      if (lost) {
        const away = Math.max(1, Math.round((Date.now() - lost) / 1000));
        say(`Connected again at ${time(Date.now())}, after ${away} s${restarted
          ? ": the server was restarted. Runs continue from their saved state." : "."}`, "good");
        lost = 0;
      }
    });
    source.addEventListener("part", (event) => {
      listening();
      const { id, html } = JSON.parse(event.data);
      if (pressed) kept.set(id, html);
      else replace(document.getElementById(id), html);
    });
    source.addEventListener("beat", listening);
    source.addEventListener("failed", () => {
      alive();
      if (!lost) lost = Date.now();
      say(`This page shows the state at ${time(heard)}: the current state cannot be read. Trying again…`, "bad");
    });
    source.addEventListener("over", () => { close(); location.reload(); }); // the access has ended
    source.addEventListener("full", () => {
      close();
      say("Too many pages are open to keep this one up to date. Close some, then reload this page.", "bad");
    });
    source.onerror = again;
    alive();
  }

  // Keep the keyboard focus on the same element, if the new content has it.
  function replace(element, html) {
    const fresh = document.createElement("template");
    fresh.innerHTML = html;
    if (!element || fresh.innerHTML === element.innerHTML) return;
    const stands = "a, button, input, summary, [tabindex]";
    const place = [...element.querySelectorAll(stands)].indexOf(document.activeElement);
    const where = document.activeElement.getAttribute("href");
    element.replaceChildren(fresh.content);
    if (place < 0) return;
    const now = [...element.querySelectorAll(stands)];
    const same = now.find((one) => where && one.getAttribute("href") === where) || now[place];
    same?.focus({ preventScroll: true });
  }

  // A click is lost if its element is replaced between press and release: parts wait for the release.
  addEventListener("pointerdown", (event) => { pressed = event.button === 0; }, true);
  for (const kind of ["pointerup", "pointercancel", "blur"]) {
    addEventListener(kind, () => setTimeout(() => {
      pressed = false;
      for (const [id, html] of kept) replace(document.getElementById(id), html);
      kept.clear();
    }), true);
  }

  if (address) connect();

  // A chosen file is read into the text field next to it, and sent with the form like typed text.
  for (const chooser of document.querySelectorAll("input[type=file][data-into]")) {
    chooser.addEventListener("change", async () => {
      const [file] = chooser.files;
      if (file) document.getElementById(chooser.dataset.into).value = await file.text();
    });
  }

  // Browsers send the part of a link after # to no server, so this script fills in a sign-in link.
  // It does not submit it: any page can open a link. It shows whom the link would sign in.
  const token = document.getElementById("token");
  if (token && location.hash.length > 1) {
    token.value = location.hash.slice(1);
    history.replaceState(null, "", location.pathname + location.search);
    try {
      const bytes = Uint8Array.from(
        atob(token.value.split(".")[0].replace(/-/g, "+").replace(/_/g, "/")),
        (letter) => letter.charCodeAt(0));
      const { name, role } = JSON.parse(new TextDecoder().decode(bytes));
      document.getElementById("whom").textContent = `This link signs you in as ${name}, ${role}.`;
    } catch { /* no name is shown, and the server refuses the token */ }
  }

  // A form is sent only once; its button shows that the request is in progress.
  for (const form of document.querySelectorAll("form[method=post]")) {
    form.addEventListener("submit", (event) => {
      if (form.dataset.sent) { event.preventDefault(); return; }
      form.dataset.sent = "yes";
      const button = event.submitter;
      if (button?.dataset.working) button.textContent = button.dataset.working;
    });
  }
  addEventListener("pageshow", () => {
    for (const form of document.querySelectorAll("form")) delete form.dataset.sent;
  });
})();
