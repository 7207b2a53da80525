const unfolded = new Map();
let focused = null;
element.addEventListener('click', (event) => {
  const caret = event.target.closest('[data-toggle]');
  if (caret) {
    const open = caret.getAttribute('aria-expanded') !== 'true';
    unfolded.set(caret.dataset.toggle, open);
    fold(caret, open);
    return;
  }
  const picked = event.target.closest('[data-pick]');
  if (!picked) return;
  focused = picked.dataset.key;
  trigger('pick', {pick: picked.dataset.pick});
});
element.addEventListener('keydown', (event) => {
  const button = event.target.closest('[role=button][data-pick]');
  if (button && (event.key === 'Enter' || event.key === ' ')) {
    event.preventDefault();
    button.click();
    return;
  }
  const step = {ArrowRight: 1, ArrowLeft: -1}[event.key];
  const token = event.target.closest('button.hs-tok');
  if (!step || !token) return;
  const all = [...element.querySelectorAll('button.hs-tok')];
  const next = all[all.indexOf(token) + step];
  if (!next) return;
  event.preventDefault();
  token.tabIndex = -1;
  next.tabIndex = 0;
  next.focus();
});
function fold(caret, open) {
  caret.setAttribute('aria-expanded', open);
  const below = caret.parentElement.querySelector('.hs-below');
  if (below) below.hidden = !open;
}
watch('value', () => {
  element.querySelectorAll('[data-toggle]').forEach((caret) => {
    if (unfolded.has(caret.dataset.toggle)) fold(caret, unfolded.get(caret.dataset.toggle));
  });
  const again = focused && element.querySelector(`[data-key="${CSS.escape(focused)}"]`);
  if (again) again.focus({preventScroll: true});
});
