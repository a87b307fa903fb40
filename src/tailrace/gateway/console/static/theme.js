// Before anything is drawn: dark or light, where somebody has chosen (else it is as their system has it).
{
  const chosen = localStorage.getItem("tailrace.theme");
  if (chosen === "dark" || chosen === "light") document.documentElement.dataset.theme = chosen;
}
