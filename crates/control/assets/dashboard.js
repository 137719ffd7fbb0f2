// What pages can do beyond links and forms: copy, and keep what is shown up to date. Everything works without.

const REFRESH_MS = 5_000;

const say = (text) => {
  document.getElementById("said").textContent = text;
};

for (const button of document.querySelectorAll("[data-copy]")) {
  button.hidden = false;
  const label = button.textContent;
  button.addEventListener("click", async () => {
    const source = document.getElementById(button.dataset.copy);
    try {
      await navigator.clipboard.writeText(source.textContent);
      button.textContent = "Copied";
      say("Copied.");
    } catch {
      // Without TLS a browser gives no clipboard: the text is marked instead.
      getSelection().selectAllChildren(source);
      button.textContent = "Marked: press Ctrl+C";
      say("The text is marked. Press Control and C to copy it.");
    }
    setTimeout(() => (button.textContent = label), 3_000);
  });
}

// What a form has made stays on the screen; to load the page again makes no second one.
if (document.querySelector(".fresh")) history.replaceState(null, "", location.href);

/** Puts the newest of `[data-refresh]` in its place, unless somebody is using it. */
async function refresh(region) {
  const used = region.contains(document.activeElement) || !getSelection().isCollapsed;
  if (document.hidden || used) return;
  const response = await fetch(location.href, { headers: { accept: "text/html" } });
  // Signed out: the next click says so.
  if (!response.ok || response.redirected) return;
  const page = new DOMParser().parseFromString(await response.text(), "text/html");
  const fresh = page.querySelector(`[data-refresh="${region.dataset.refresh}"]`);
  if (!fresh) return;
  const said = region.querySelector("[data-say]")?.textContent.trim();
  region.replaceChildren(...fresh.childNodes);
  const says = region.querySelector("[data-say]")?.textContent.trim();
  if (says !== said) say(says ?? "");
}

const region = document.querySelector("[data-refresh]");
if (region) {
  const again = () => setTimeout(() => refresh(region).catch(() => {}).finally(again), REFRESH_MS);
  again();
}
