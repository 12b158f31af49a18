-- Holds and what resolves them.
-- KEYS: 1 hold, 2 order, 3 due, 4 rows, 5 seq, 6 house, 7 suspense, 8.. the account, then its ancestors.

local HOLD, ORDER, DUE, ROWS, SEQ, HOUSE, SUSPENSE, LEAF = unpack(KEYS, 1, 8)
local verbs = {}

local function record()
  return redis.call('HMGET', HOLD, 'rid', 'account', 'order', 'hold', 'until', 'state', 'digests', 'posted', 'house',
    'suspense', 'response', 'history')
end

local function note(response, history)
  if response ~= '' then redis.call('HSET', HOLD, 'response', response) end
  if history ~= '' then redis.call('HSET', HOLD, 'history', history) end
end

-- Charge an account that stands outside the tree's budgets: the house's own.
local function book(kind, account, rid, nusd)
  redis.call('HINCRBY', account, 'posted', nusd)
  redis.call('HINCRBY', account, 'spent', nusd)
  write(ROWS, SEQ, kind, account, { rid = rid, nusd = nusd })
end

local function resolve(state, kind, posted)
  local is = redis.call('HMGET', HOLD, 'hold', 'rid', 'until')
  local back = negated(is[1])
  for i = 8, #KEYS do
    roll(KEYS[i])
    redis.call('HINCRBY', KEYS[i], 'pending', back)
    redis.call('HINCRBY', KEYS[i], 'posted', posted)
  end
  redis.call('HINCRBY', LEAF, 'spent', posted)
  redis.call('HSET', HOLD, 'state', state, 'posted', posted)
  redis.call('PEXPIRE', HOLD, KEEP_MS + 60000) -- never gone before the order that names it
  redis.call('ZREM', DUE, is[2])
  local order = is[2]
  if state ~= 'posted' then order = '-' .. order end
  redis.call('SET', ORDER, order, 'PX', KEEP_MS)
  write(ROWS, SEQ, kind, LEAF, { rid = is[2], nusd = posted, until_ms = is[3] })
end

local function lapse()
  local is = redis.call('HMGET', HOLD, 'state', 'relayed', 'hold')
  if is[1] == 'pending' then return resolve('expired', 'expire', '0') end
  local owed = is[2]
  if owed == '0' or tonumber(owed) > tonumber(is[3]) then owed = is[3] end
  resolve('posted', 'post', owed)
end

-- Whether the hold is open; one whose time is over resolves first.
local function live()
  local is = redis.call('HMGET', HOLD, 'state', 'until')
  if is[1] ~= 'pending' and is[1] ~= 'in_doubt' then return false end
  if tonumber(is[2]) > tonumber(now) then return true end
  lapse()
  return false
end

local function late(billed, response, history)
  local is = redis.call('HMGET', HOLD, 'rid', 'posted', 'house', 'suspense', 'response')
  if not is[1] then return { 'unknown' } end
  if not is[5] then note(response, history) end
  local unbooked = tonumber(billed) - tonumber(is[2]) - tonumber(is[3]) - tonumber(is[4])
  if unbooked <= 0 then return { 'late', '0', unpack(record()) } end
  redis.call('HINCRBY', HOLD, 'suspense', text(unbooked))
  book('suspense', SUSPENSE, is[1], text(unbooked))
  return { 'late', text(unbooked), unpack(record()) }
end

-- The account that lacks the money: the nearest that will not get it back, else the nearest that may.
local function shortfall(nusd)
  local held
  for i = 8, #KEYS do
    local is = redis.call('HMGET', KEYS[i], 'budget', 'period', 'start', 'posted', 'pending', 'deposits')
    if is[1] ~= '' then
      local left = tonumber(is[1])
      if tonumber(start_of(is[2])) <= tonumber(is[3]) then left = left + tonumber(is[6]) - tonumber(is[4]) end
      if tonumber(nusd) > left then return i end
      if not held and tonumber(nusd) > left - tonumber(is[5]) then held = i end
    end
  end
  return held
end

-- From here the hold is in doubt.
local function begin(doubt)
  local is = redis.call('HMGET', HOLD, 'rid', 'until')
  local till = doubt
  if tonumber(is[2]) > tonumber(till) then till = is[2] end
  redis.call('HSET', HOLD, 'state', 'in_doubt', 'until', till)
  redis.call('ZADD', DUE, till, is[1])
  write(ROWS, SEQ, 'begin', LEAF, { rid = is[1], until_ms = till })
end

-- ARGV: 5 rid, 6 account, 7 order, 8 nusd, 9 until, 10 digests, 11 in doubt until, empty = no call follows
function verbs.reserve()
  local rid, nusd, till = ARGV[5], ARGV[8], ARGV[9]
  local taken = redis.call('GET', ORDER)
  if taken == rid then return { 'held', unpack(record()) } end
  if taken and string.sub(taken, 1, 1) ~= '-' then return { 'taken', taken } end
  if redis.call('EXISTS', LEAF) == 0 then return { 'unknown' } end
  local short = shortfall(nusd)
  if short then
    return { 'short', text(short - 8),
      unpack(redis.call('HMGET', KEYS[short], 'parent', 'budget', 'period', 'default', 'start', 'posted', 'pending',
        'deposits')) }
  end
  for i = 8, #KEYS do
    roll(KEYS[i])
    redis.call('HINCRBY', KEYS[i], 'pending', nusd)
  end
  redis.call('HSET', HOLD, 'rid', rid, 'account', ARGV[6], 'order', ARGV[7], 'hold', nusd, 'until', till,
    'state', 'pending', 'digests', ARGV[10], 'relayed', '0', 'posted', '0', 'house', '0', 'suspense', '0')
  redis.call('SET', ORDER, rid)
  redis.call('ZADD', DUE, till, rid)
  write(ROWS, SEQ, 'hold', LEAF,
    { rid = rid, nusd = nusd, until_ms = till, reference = ARGV[7], detail = ARGV[10] })
  if ARGV[11] ~= '' then begin(ARGV[11]) end
  return { 'held', unpack(record()) }
end

-- ARGV: 5 until
function verbs.begin()
  if not live() then return { 'resolved' } end
  begin(ARGV[5])
  return { 'begun' }
end

-- ARGV: 5 nusd
function verbs.relayed()
  local is = redis.call('HMGET', HOLD, 'rid', 'state', 'relayed')
  if (is[2] == 'pending' or is[2] == 'in_doubt') and tonumber(ARGV[5]) > tonumber(is[3]) then
    redis.call('HSET', HOLD, 'relayed', ARGV[5])
    write(ROWS, SEQ, 'relayed', LEAF, { rid = is[1], nusd = ARGV[5] })
  end
  return { 'relayed' }
end

-- ARGV: 5 posted, 6 house, 7 response, 8 history
function verbs.post()
  local posted, house = ARGV[5], ARGV[6]
  if not live() then return late(text(tonumber(posted) + tonumber(house)), ARGV[7], ARGV[8]) end
  local is = redis.call('HMGET', HOLD, 'rid', 'hold')
  if tonumber(posted) > tonumber(is[2]) then return { 'above', is[2] } end
  note(ARGV[7], ARGV[8])
  resolve('posted', 'post', posted)
  if house ~= '0' then
    redis.call('HSET', HOLD, 'house', house)
    book('house', HOUSE, is[1], house)
  end
  return { 'resolved', '0', unpack(record()) }
end

-- ARGV: 5 response, 6 history
function verbs.void()
  if not live() then return late('0', ARGV[5], ARGV[6]) end
  note(ARGV[5], ARGV[6])
  resolve('voided', 'void', '0')
  return { 'resolved', '0', unpack(record()) }
end

-- The hold as it is now; resolved first when its time is over.
function verbs.peek()
  local is = redis.call('HMGET', HOLD, 'state', 'until')
  if not is[1] then return { 'unknown' } end
  local open = is[1] == 'pending' or is[1] == 'in_doubt'
  if open and not live() then return { 'lapsed', '0', unpack(record()) } end
  return { 'is', '0', unpack(record()) }
end

return verbs[ARGV[1]]()
