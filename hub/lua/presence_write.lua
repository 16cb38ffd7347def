-- Make entries what a worker wants them to be. Returns the places (from 0) of those whose keys hold something else, so
-- that they could not be written; or 0 if the worker has lost its lease: then nothing was done.
local lease = ARGV[2]
-- From the third on, five for each entry: what to do (+ add, = restore, - remove, ! remove what should be there) and
-- whether to announce, channel, client, user, info.
local FIRST, WIDTH = 3, 5

if not redis.call('ZSCORE', leases, lease) then
    return 0
end

-- Restoring is silent: the join was announced before Redis lost the entry, and no leave since.
local function add(silent, announce, channel, client, user, info)
    local old = redis.call('HGET', entries(channel), client)
    local old_lease, old_user, _
    if old then
        old_lease, _, old_user = parse(old)
    end
    if old_lease ~= lease then
        if old then
            redis.call('SREM', index(old_lease), client .. ' ' .. channel)
        end
        redis.call('SADD', index(lease), client .. ' ' .. channel)
    end
    if old_user ~= user then
        if old then
            count_user(channel, old_user, -1)
        end
        count_user(channel, user, 1)
    end
    redis.call('HSET', entries(channel), client, lease .. ' ' .. announce .. ' ' .. #user .. ' ' .. user .. info)
    if not old and not silent then
        tell(channel, '+', announce, info)
    end
end

local function change(what, announce, channel, client, user, info)
    if what == '+' or what == '=' then
        add(what == '=', announce, channel, client, user, info)
    elseif not remove(channel, client) and what == '!' then
        -- Redis lost it; those who heard of the join hear of the leave.
        tell(channel, '-', announce, info)
    end
end

local occupied = {}
for at = FIRST, #ARGV, WIDTH do
    local what, announce = string.sub(ARGV[at], 1, 1), string.sub(ARGV[at], 2, 2)
    if not unless_occupied(change, what, announce, ARGV[at + 1], ARGV[at + 2], ARGV[at + 3], ARGV[at + 4]) then
        occupied[#occupied + 1] = (at - FIRST) / WIDTH
    end
end
return occupied
