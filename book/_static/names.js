// The arrows that open and close parts of the contents have no name in the theme; a screen reader needs one.
document.addEventListener("DOMContentLoaded", () => {
  for (const arrow of document.querySelectorAll("summary:not([aria-label])")) {
    if (!arrow.textContent.trim()) arrow.setAttribute("aria-label", "Show or hide the pages of this part");
  }
});
