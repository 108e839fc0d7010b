for (const svg of document.querySelectorAll("svg[data-chart]")) {
  const data = JSON.parse(svg.dataset.chart), place = JSON.parse(svg.dataset.geometry), figure = svg.parentElement;
  const digits = data.digits ?? 3, [first, second] = data.labels ?? ["training", "held-out"];
  const cross = Object.assign(document.createElement("i"), { className: "cross", hidden: true });
  const tip = Object.assign(document.createElement("div"), { className: "tip", hidden: true });
  figure.append(cross, tip);
  const nearest = (points, x) =>
    (points ?? []).reduce((best, p) => (!best || Math.abs(p[0] - x) < Math.abs(best[0] - x) ? p : best), null);
  svg.addEventListener("pointermove", (event) => {
    const box = svg.getBoundingClientRect(), unit = box.width / place.width;
    const share = ((event.clientX - box.left) / unit - place.left) / (place.right - place.left);
    const x = place.x[0] + share * (place.x[1] - place.x[0]);
    const line = nearest(data.training, x), dot = nearest(data.heldout, x);
    const at = line ?? dot;
    if (!at) return;
    const left = (place.left + ((at[0] - place.x[0]) / (place.x[1] - place.x[0])) * (place.right - place.left)) * unit;
    const rows = [`update ${at[0]}`];
    if (line) rows.push(`${data.heldout ? `${first} ` : ""}${line[1].toFixed(digits)}`);
    if (dot && Math.abs(dot[0] - at[0]) <= 0.02 * (place.x[1] - place.x[0]))
      rows.push(`${second} ${dot[1].toFixed(digits)}${dot[2] ? ` ± ${dot[2].toFixed(digits)}` : ""}`);
    tip.textContent = rows.join("\n");
    tip.classList.toggle("left", share > 0.6);
    cross.style.left = tip.style.left = `${left}px`;
    cross.hidden = tip.hidden = false;
  });
  svg.addEventListener("pointerleave", () => { cross.hidden = tip.hidden = true; });
}

for (const side of document.querySelectorAll(".side")) {
  const video = side.querySelector("video"), strips = side.querySelector(".strips");
  if (!video) continue;
  video.addEventListener("play", () => {
    for (const other of document.querySelectorAll("video")) if (other !== video) other.pause();
    requestAnimationFrame(follow);
  });
  const head = strips?.querySelector(".playhead"), seconds = () => Number(strips.dataset.seconds) || video.duration;
  function follow() {
    if (!head) return;
    head.hidden = false;
    head.style.left = `${Math.min(100, (100 * video.currentTime) / seconds())}%`;
    if (!video.paused && !video.ended) requestAnimationFrame(follow);
  }
  video.addEventListener("seeked", follow);
  strips?.addEventListener("click", (event) => {
    const box = strips.getBoundingClientRect();
    video.currentTime = ((event.clientX - box.left) / box.width) * seconds();
    video.play();
  });
}
