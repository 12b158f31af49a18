-- Shared rate limits: sliding windows in buckets, as negotiator/store_embedded_rates.py explains them.
-- A window is a hash: amount, per, and one field "bucket:worker" per grant.
-- ARGV: 1 verb, 2 now, 3 buckets, 4 worker

local now, buckets, worker = tonumber(ARGV[2]), tonumber(ARGV[3]), ARGV[4]
local VENDOR = '~vendor'
local verbs = {}

local function width(per)
  return math.max(1, math.floor(per / buckets))
end

-- What counts now: a list of { bucket, worker, count, field }, and their sum. What is over is deleted.
local function grants(key, per)
  local flat, list, sum = redis.call('HGETALL', key), {}, 0
  for i = 1, #flat, 2 do
    local bucket, who = string.match(flat[i], '^(%d+):(.*)$')
    if bucket then
      local count = tonumber(flat[i + 1])
      if (tonumber(bucket) + 1) * width(per) + per <= now or count == 0 then
        redis.call('HDEL', key, flat[i])
      else
        list[#list + 1] = { tonumber(bucket), who, count, flat[i] }
        sum = sum + count
      end
    end
  end
  return list, sum
end

local function drop(key, list, sum, who)
  for _, grant in ipairs(list) do
    if grant[2] == who then
      redis.call('HDEL', key, grant[4])
      sum = sum - grant[3]
    end
  end
  return sum
end

local function count_in(key, per, ending, who, count)
  local bucket = string.format('%.0f', math.floor(ending / width(per)))
  redis.call('HINCRBY', key, bucket .. ':' .. who, count)
  local ttl = ending - now + per + 2 * width(per)
  if redis.call('PTTL', key) < ttl then redis.call('PEXPIRE', key, ttl) end
end

-- KEYS: windows. ARGV: 5 until, then amount, per, want and spare of each
function verbs.lease()
  local till, granted = tonumber(ARGV[5]), {}
  for i, key in ipairs(KEYS) do
    local amount, per = tonumber(ARGV[2 + 4 * i]), tonumber(ARGV[3 + 4 * i])
    local want, spare = tonumber(ARGV[4 + 4 * i]), tonumber(ARGV[5 + 4 * i])
    local before = redis.call('HGET', key, 'per')
    if before and tonumber(before) ~= per then redis.call('DEL', key) end
    redis.call('HSET', key, 'amount', amount, 'per', per)
    local list, sum = grants(key, per)
    if per == 0 then sum = drop(key, list, sum, worker) end
    local left = math.max(0, amount - sum)
    local grant = math.min(want, left)
    grant = grant + math.min(spare, math.floor((left - grant) / 2))
    count_in(key, per, till, worker, grant)
    granted[i] = grant
  end
  return granted
end

-- KEYS: windows. ARGV: 5.. of each how many, and the end of the lease they were part of (-1: the oldest of the worker)
function verbs.give_back()
  for i, key in ipairs(KEYS) do
    local unused, till = tonumber(ARGV[3 + 2 * i]), tonumber(ARGV[4 + 2 * i])
    local per = tonumber(redis.call('HGET', key, 'per') or '')
    if per then
      local list = grants(key, per)
      table.sort(list, function(a, b) return a[1] < b[1] end)
      for _, grant in ipairs(list) do
        local of_lease = till < 0 or grant[1] == math.floor(till / width(per))
        if grant[2] == worker and of_lease and unused > 0 then
          local back = math.min(unused, grant[3])
          redis.call('HINCRBY', key, grant[4], -back)
          unused = unused - back
        end
      end
    end
  end
  return 0
end

-- KEYS: 1 window. ARGV: 5 remaining
function verbs.correct()
  local key = KEYS[1]
  local is = redis.call('HMGET', key, 'amount', 'per')
  if is[1] then
    local per = tonumber(is[2])
    local list, sum = grants(key, per)
    sum = drop(key, list, sum, VENDOR)
    local unseen = tonumber(is[1]) - math.max(0, tonumber(ARGV[5])) - sum
    if unseen > 0 then count_in(key, per, now, VENDOR, unseen) end
  end
  return 0
end

return verbs[ARGV[1]]()
