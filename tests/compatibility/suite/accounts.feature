Feature: Accounts
  Scenario: A new one
    Given an empty service
    When ada@example.com registers
    Then the answer is 201

  Scenario: One that is taken
    Given an empty service
    And an account for ada@example.com
    When ada@example.com registers
    Then the answer is 400

  Scenario: Async steps are run
    Given an empty service
    Then it cannot be
