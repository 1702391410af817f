-- Health of what Flashplane serves, from its conditions: the rules of kstatus, and "Suspended" where somebody asked
-- for it. Argo CD's sync waves wait until this says Healthy.
local health = { status = "Progressing", message = "The operator has not looked at it yet." }

if obj.metadata ~= nil and obj.metadata.deletionTimestamp ~= nil then
  health.message = "It is being deleted."
  return health
end
if obj.status == nil or obj.status.conditions == nil then
  return health
end
if obj.status.observedGeneration ~= obj.metadata.generation then
  health.message = "The operator has not looked at the new spec yet."
  return health
end

local found = {}
for _, condition in ipairs(obj.status.conditions) do
  found[condition.type] = condition
end
local function holds(kind)
  return found[kind] ~= nil and found[kind].status == "True"
end
local function say(status, condition)
  health.status = status
  health.message = condition.reason
  if condition.message ~= nil and condition.message ~= "" then
    health.message = condition.reason .. ": " .. condition.message
  end
  return health
end

if found.Ready == nil then
  return health
end
if holds("Reconciling") then
  return say("Progressing", found.Reconciling)
end
if holds("Stalled") then
  return say("Degraded", found.Stalled)
end
if obj.spec ~= nil and obj.spec.suspend == true then
  return say("Suspended", found.Ready)
end
-- A rollout that somebody paused waits for somebody.
if found.EnginesReady ~= nil and found.EnginesReady.reason == "RolloutPaused" then
  return say("Suspended", found.EnginesReady)
end
if holds("Ready") then
  return say("Healthy", found.Ready)
end
-- No pods because none are wanted, as with a Deployment of no replicas.
if found.Ready.reason == "ScaledToZero" then
  return say("Healthy", found.Ready)
end
return say("Progressing", found.Ready)
